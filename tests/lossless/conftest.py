"""Let the tests import what `python -m tests.lossless.report` uses too, by the same names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
