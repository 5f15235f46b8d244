"""Kernels for CPUs, compiled by numba; imported only where numba is installed."""
