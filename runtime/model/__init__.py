"""The backbone over rows of any pattern, and its attention."""
