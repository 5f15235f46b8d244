"""The kernels of an artifact, compiled for GPUs that are not here, and put into it."""
