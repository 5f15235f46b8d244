"""What a step costs on a device: bytes, FLOPs and kernels of its program, and the time they take."""
