"""nldc: a declarative decoding-strategy compiler.

`import nldc` loads neither torch nor triton; `nldc.load` does, when it is called.
"""

__version__ = "0.1.0"
