"""Which keys a row sees, inlined by Triton into the attention kernel."""

import triton
import triton.language as tl  # noqa: F401


@triton.jit
def sees(
    q_kind,
    q_group,
    q_index,
    q_row,
    q_position,
    k_prefix,
    k_kind,
    k_group,
    k_index,
    k_row,
    k_position,
):
    return k_row <= q_row


# As artifacts hold it, to the line: Triton knows both as one kernel.
# ruff: noqa: ARG001, D103
# mypy: allow-untyped-defs, allow-untyped-decorators
