"""What the lines of a generated prefill or step call."""
