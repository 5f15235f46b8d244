"""Kernels for CPUs, compiled by numba; see `available` for what is imported without it."""
