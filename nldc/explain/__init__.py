"""A strategy explained: one model of it (`model.py`), and what prints it (`print_*.py`)."""

from nldc.explain.full import MAX_PICTURE, between_steps, explain, picture, promise

__all__ = ["MAX_PICTURE", "between_steps", "explain", "picture", "promise"]
