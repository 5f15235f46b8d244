"""The proof that a strategy keeps its promise: see docs/losslessness.md.

`prove(graph)` gives a `Certificate`; `lossless` is the rule that refuses what is not proved.
"""

from nldc.check.lossless.cache_order import cache_order
from nldc.check.lossless.certificate import Boundary, Certificate, Ground, Problem
from nldc.check.lossless.constraints import chosen_by, constraints
from nldc.check.lossless.handover import Handover, handover, handover_data
from nldc.check.lossless.prove import prove
from nldc.check.lossless.rule import lossless

__all__ = [
    "Boundary",
    "Certificate",
    "Ground",
    "Handover",
    "Problem",
    "cache_order",
    "chosen_by",
    "constraints",
    "handover",
    "handover_data",
    "lossless",
    "prove",
]
