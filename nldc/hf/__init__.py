"""Compiled strategies as a `custom_generate` of transformers, on the weights that it has loaded."""

from nldc.hf.generate import CustomGenerate, custom_generate

__all__ = ["CustomGenerate", "custom_generate"]
