"""The contract between generated code and this runtime, as plain names; imports no torch.

The code generator reads its spellings from here, so that a renamed argument is one edit.
"""

from __future__ import annotations

import re

ABI_VERSION = 3
"""Rises whenever code generated before would no longer run as it did."""

PREDICATE_ARGUMENTS = (
    "q_kind",
    "q_group",
    "q_index",
    "q_row",
    "q_position",
    "k_prefix",
    "k_kind",
    "k_group",
    "k_index",
    "k_row",
    "k_position",
)
"""Parameters, in order, of the `@triton.jit` predicate of a `Pattern`.

All are int32 tiles but `k_prefix`, which is boolean; q_* are [rows, 1], k_* [1, keys]. A key of the
cached prefix has -1 in every number but `k_position`.
"""

ROW_FACTS = ("kind", "group", "index", "row", "position", "prefix")
"""Attributes of the `RowFacts` that the mask function of a `Pattern` gets for q and for k."""

NAMES = (
    "Batch",
    "Decoder",
    "Emit",
    "Handover",
    "Layout",
    "Pattern",
    "RowFacts",
    "SwitchingDecoder",
    "Table",
    "ops",
)
"""What generated modules import from `nldc.runtime`."""

BATCH = (
    "append",
    "entropy",
    "everyone",
    "forward",
    "head",
    "head_choose",
    "margin",
    "probability",
    "rounds",
    "sample",
    "size",
)
"""What a step asks of the batch: part of `step/contract.py`."""

OPS = (
    "accept_longest_prefix",
    "advance",
    "begun",
    "choose_rows",
    "fill",
    "fill_after_eos",
    "fill_left",
    "gather_rows",
    "grouped_rows",
    "has_masks",
    "join",
    "left",
    "lookup",
    "mix",
    "no_tokens",
    "rows",
    "select",
    "take_rows",
    "unfinished",
)
"""The functions of `step/ops.py` that a step calls."""

BUILDERS = {"Layout": ("causal", "of"), "Table": ("of",)}
"""What makes constants, and the layouts of a prompt."""

VALUES = (
    "bonus",
    "drafted",
    "filled",
    "gather",
    "in_order",
    "masked",
    "matches",
    "places",
    "row",
    "rows",
    "shape",
    "size",
    "staying",
    "take",
    "tokens",
)
"""What a step asks of the values that those return: layouts, rows, states, what was accepted."""

ADAPTER_FOLDER = "linear_spec_lora"
"""Where a released checkpoint keeps its drafting adapter."""

MANIFEST = "manifest.json"
"""The file of an artifact that holds the compiler's version and the digest of every other file."""

COVERAGE = "kernels.json"
"""The file of an artifact that says which kernels were compiled ahead, where some were."""

KERNELS = re.compile(r"kernels_[\w-]+\.zip", re.ASCII)
"""The files that hold them."""

FILE_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
"""What a manifest may call a file: a name, or one in a folder."""
