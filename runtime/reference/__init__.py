"""Eager torch definitions of the kernels: slow, readable, and the truth."""
