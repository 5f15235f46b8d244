"""From checked graph to a folder of Python and Triton source. No torch."""
