"""A decoder's step on CUDA as kernels of its own: see ``decoder.cu``."""
