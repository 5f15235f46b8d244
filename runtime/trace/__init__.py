"""What a traced step says of itself: what is added to generated code, and its way to the host."""
