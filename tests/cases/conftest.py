"""Let these tests import those of tests/lossless by the names that the reports use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
