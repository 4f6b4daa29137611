"""How the embedded checkpoint came to be: a small world of music, and a small MusicGen that learns it."""
