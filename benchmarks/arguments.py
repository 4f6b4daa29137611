"""Lists on the command line, as in 1,4,16."""

from __future__ import annotations


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]
