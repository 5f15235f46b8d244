"""The contract between generated code and this runtime, as plain names; imports no torch.

The code generator reads its spellings from here, so that a renamed argument is one edit.
"""

from __future__ import annotations

import re

ABI_VERSION = 5
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

PROMPT_ARGUMENT = "k_prompt"
"""One more, boolean, where the `Pattern` asks which cached rows are the prompt's."""

DECODER_VARIABLES = (
    "STRATEGY",
    "ADAPTERS",
    "REQUIRED_ADAPTERS",
    "SAMPLERS",
    "CHECKPOINT_PARAMS",
    "DIFFUSES",
    "SCRATCH_ROWS",
    "PROMPT_ROWS",
    "TOKEN_ROWS",
    "LOOKS_UP",
    "CARRIES_PROMPT",
    "ROUTES",
    "ROUTED_BY",
    "KERNELS",
    "PARAMS",
    "ASKED",
)
"""Class variables of a `Decoder`, by which generated code tells what its strategy needs."""

ROW_FACTS = ("kind", "group", "index", "row", "position", "prefix", "prompt")
"""Attributes of the `RowFacts` that the mask function of a `Pattern` gets for q and for k."""

NAMES = (
    "Batch",
    "Decoder",
    "Emit",
    "Handover",
    "Layout",
    "Param",
    "Pattern",
    "RowFacts",
    "SwitchingDecoder",
    "Table",
    "Worth",
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
    "head_choose_scored",
    "margin",
    "mix",
    "noise",
    "param",
    "probability",
    "rounds",
    "safety",
    "sample",
    "size",
)
"""What a step asks of the batch: part of `step/contract.py`."""

OPS = (
    "accept_longest_branch",
    "accept_longest_prefix",
    "advance",
    "begun",
    "candidates",
    "choose_rows",
    "differ",
    "fill",
    "fill_after_eos",
    "fill_left",
    "gather_rows",
    "grouped_rows",
    "has_masks",
    "held",
    "join",
    "leading",
    "least",
    "left",
    "length_of",
    "lookup",
    "mask",
    "no_tokens",
    "number",
    "recall",
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
    "branch",
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
    "squeeze",
    "staying",
    "take",
    "tokens",
    "unsqueeze",
)
"""What a step asks of the values that those return: layouts, rows, states, what was accepted."""

ADAPTER_FOLDER = "linear_spec_lora"
"""Where a released checkpoint keeps its drafting adapter."""
SAMPLER_FOLDER = "commit_sampler"
"""Where a checkpoint keeps the trained sampler of its strategies."""

MANIFEST = "manifest.json"
"""The file of an artifact that holds the compiler's version and the digest of every other file."""

COVERAGE = "kernels.json"
"""The file of an artifact that says which kernels were compiled ahead, where some were."""

KERNELS = re.compile(r"kernels_[\w-]+\.zip", re.ASCII)
"""The files that hold them."""

FILE_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
"""What a manifest may call a file: a name, or one in a folder."""
