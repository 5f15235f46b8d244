"""The proof that a strategy keeps its promise: see docs/losslessness.md.

`prove(graph)` gives a `Certificate`, `proof_of(graph)` also what it was made from. The rules that
refuse what is not proved are in modules of their names.
"""

from nldc.check.lossless.certificate import Boundary, Certificate, Ground, Problem
from nldc.check.lossless.handover import Handover, handover_data, handover_of
from nldc.check.lossless.proof import Proof, proof_of, prove

__all__ = [
    "Boundary",
    "Certificate",
    "Ground",
    "Handover",
    "Problem",
    "Proof",
    "handover_data",
    "handover_of",
    "proof_of",
    "prove",
]
