"""A real Triton Inference Server as a child process: found, checked, started, watched and stopped."""
