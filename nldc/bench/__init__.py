"""How fast strategies decode on this machine, and what a forward of each brings."""

from nldc.bench.data import as_data, curves_of
from nldc.bench.measured import Measured, agreement
from nldc.bench.page import page_of
from nldc.bench.run import bench, check_brought, environment

__all__ = [
    "Measured", "agreement", "as_data", "bench", "check_brought", "curves_of", "environment",
    "page_of",
]  # fmt: skip
