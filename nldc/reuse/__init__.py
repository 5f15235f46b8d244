"""One strategy put together of several files: what it extends, and the fragments that it includes.

The result is a source like any other, as if it had been written out, but each key and value knows
the file that it came from. What comes after sees no `extends` and no `include`.
"""

from nldc.reuse.flat import flat
from nldc.reuse.whole import load, parse, resolve

__all__ = ["flat", "load", "parse", "resolve"]
