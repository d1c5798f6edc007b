"""Kernels in C with inline assembly for processors with AVX2, and the structures through which they are called."""
