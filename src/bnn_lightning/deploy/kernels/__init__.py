"""Kernels in C, and the Python that lays out their arguments."""
