"""Hand-written Triton kernels that generated decoders call."""
