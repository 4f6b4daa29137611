"""Hours of mixed load on a server, every request accounted for."""
