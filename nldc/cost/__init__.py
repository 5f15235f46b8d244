"""What a step costs on a device: what its program moves and computes, and the time."""
