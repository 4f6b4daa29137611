"""The decoder in C, for processors: ``decoder.c``, compiled beside itself by ``compile.py``."""
