"""Thousands of requests that no honest client sends, against a live server."""
