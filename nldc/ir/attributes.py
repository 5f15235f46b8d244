"""What published engines do differently at equal settings: one attribute an op for each choice.

What a file writes wins; then comes the preset that it names under `compat`, then the default: what
the released loops of Nemotron-Labs-Diffusion do, but that masked is a property of a row, never a
comparison of ids. docs/compat.md has the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NO_PRESET = "NLD012"


@dataclass(frozen=True)
class Attribute:
    """A choice that an op makes; `values` maps each value to what it means.

    `situation` is when two strategies that differ in this attribute alone can give other tokens.
    """

    op: str
    key: str
    question: str
    values: Mapping[str, str]
    default: str
    situation: str

    @property
    def name(self) -> str:
        """The op and the key, as in `sample.mask_token`."""
        return f"{self.op}.{self.key}"


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "sample",
        "mask_token",
        "May the mask token be chosen?",
        {
            "allowed": "it is a token like others",
            "forbidden": "its logit is taken for -inf before anything else",
        },
        "allowed",
        "the mask token is the likeliest of a row",
    ),
    Attribute(
        "score",
        "mask_token",
        "Does the mask token's mass count in a score?",
        {
            "counted": "probabilities are over the whole vocabulary",
            "ignored": "probabilities are over all other tokens",
        },
        "counted",
        "the mask token's mass moves a score across a bound, or past another row's",
    ),
    Attribute(
        "score",
        "of",
        "Is a score taken before or after temperature, top-k, top-p and min-p?",
        {
            "raw": "of the model's logits",
            "filtered": "after logits processors, top-k, top-p and min-p, without the temperature",
            "processed": "of the distribution that the token is drawn from",
        },
        "raw",
        "at temperature above 0, a score crosses a bound or another row's",
    ),
    Attribute(
        "rows",
        "seed",
        "Does a block begin with the causal seed?",
        {
            "given": "its first row holds the token",
            "masked": "its first row is masked, and denoised like the others",
        },
        "given",
        "every block: the first row is guessed with the others, not chosen causally",
    ),
    Attribute(
        "repeat",
        "keys",
        "Are a finished block's keys recomputed?",
        {
            "dropped": "the loop leaves no keys; a forward after it appends them",
            "kept": "those of the loop's last forward stay, which saw rows still masked",
        },
        "dropped",
        "every block after the first: what it sees of the blocks before",
    ),
    Attribute(
        "repeat",
        "eos",
        "What does an EOS inside a block do?",
        {
            "stops": "a block is full when no masked row comes before the EOS",
            "fills": "as `stops`, and the rows after it become that EOS at once",
            "ignored": "a block is full when no row is masked",
        },
        "stops",
        "an EOS stands in a block while rows before it are masked",
    ),
    Attribute(
        "repeat",
        "eos_ids",
        "Which of several EOS ids count inside a block?",
        {"all": "each of them", "first": "the first of the checkpoint's or the call's list"},
        "all",
        "an EOS that is not the first of the list stands in a block while rows are masked",
    ),
    Attribute(
        "repeat",
        "exhausted",
        "What happens to rows that are still masked after `at_most` rounds?",
        {
            "keep": "they stay masked, for a later loop to fill: none may be emitted (NLD118)",
            "fill": "they take the token that the last round offered them",
        },
        "keep",
        "rows are still masked after the last round",
    ),
)  # fmt: skip

ATTRIBUTE: Mapping[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}
"""Every attribute by its name."""

PRESETS: Mapping[str, Mapping[str, str]] = {
    "hf": {
        "sample.mask_token": "allowed",
        "score.mask_token": "counted",
        "score.of": "raw",
        "rows.seed": "given",
        "repeat.keys": "dropped",
        "repeat.eos": "stops",
        "repeat.eos_ids": "first",
        "repeat.exhausted": "keep",
    },
    "sglang": {
        "sample.mask_token": "forbidden",
        "score.mask_token": "counted",
        "score.of": "raw",
        "rows.seed": "masked",
        "repeat.keys": "dropped",
        "repeat.eos": "fills",
        "repeat.eos_ids": "first",
        "repeat.exhausted": "fill",
    },
    "vllm": {
        "sample.mask_token": "forbidden",
        "score.mask_token": "ignored",
        "score.of": "filtered",
        "rows.seed": "masked",
        "repeat.keys": "dropped",
        "repeat.eos": "ignored",
        "repeat.eos_ids": "all",
        "repeat.exhausted": "fill",
    },
    "mlx": {
        "sample.mask_token": "allowed",
        "score.mask_token": "counted",
        "score.of": "raw",
        "rows.seed": "masked",
        "repeat.keys": "dropped",
        "repeat.eos": "stops",
        "repeat.eos_ids": "first",
        "repeat.exhausted": "keep",
    },
}
"""What each engine does, for every attribute."""


def choose(name: str, written: str | None, compat: str | None) -> str:
    """Return an attribute's value: as written, else as the preset has it, else the default."""
    if written is not None:
        return written
    return ATTRIBUTE[name].default if compat is None else PRESETS[compat][name]
