"""Rows of a forward, which keys they see, and both made ready for a device."""
