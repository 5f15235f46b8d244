"""The page of docs/compat.md: every attribute, what each preset sets, and where that is known from.

`python -m nldc.compat docs/compat.md` writes the page again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nldc.ir.attributes import ATTRIBUTES, PRESETS


@dataclass(frozen=True)
class Preset:
    """What a preset follows; `notes` has for an attribute how the source does it, or a doubt."""

    title: str
    source: str
    notes: Mapping[str, str]


SOURCES: Mapping[str, Preset] = {
    "hf": Preset(
        "the loops released with the checkpoints",
        "`generate` and `linear_spec_generate` of `modeling_nemotron_labs_diffusion.py`, in "
        "the checkpoint folders of Nemotron-Labs-Diffusion; read in public copies of the file",
        {
            "sample.mask_token": "argmax over all logits. There, a row that takes it counts as "
            "masked again; here it is filled, because masked is a property of the row.",
            "score.mask_token": "softmax over all logits",
            "score.of": "`generate` takes the softmax of the logits as they are. "
            "`linear_spec_generate` with a threshold divides them by the temperature first: write "
            "`of: processed` for that.",
            "rows.seed": "`causal_context` is true by default: the causal choice opens each block",
            "repeat.keys": "one causal forward over the finished block",
            "repeat.eos": "the loop breaks at an EOS with no mask before it",
            "repeat.eos_ids": "inferred: the loop compares with one id and cannot take a list, so "
            "`first` is the nearest that is defined",
            "repeat.exhausted": "as many rounds as rows, each filling at least one: rows are left "
            "only where the mask token was chosen, and they stay as they are",
        },
    ),
    "sglang": Preset(
        "SGLang's `FastDiffuser`",
        "`python/sglang/srt/dllm/algorithm/fastdiffuser.py` and `linear_spec.py`, with "
        "`mixin/req.py`, as proposed in sgl-project/sglang pull request 25803 and its stack; "
        "open when it was read",
        {
            "sample.mask_token": "its logit is set to -inf before the argmax, in the draft and the "
            "verifying forward of `LinearSpec` too",
            "score.mask_token": "softmax over the unchanged logits",
            "score.of": "softmax over the unchanged logits, whatever the temperature",
            "rows.seed": "`FastDiffuser` fills a block with masks alone. `LinearSpec` puts the "
            "seed first, and presets leave rows that an `accept` verifies as they are.",
            "repeat.keys": "one forward over the finished block, causal with `causal_context`. "
            "`LowConfidence`, for LLaDA 2, repeats the bidirectional one: write that forward with "
            "`attention: bidirectional`.",
            "repeat.eos": "masked rows after an EOS become EOS as soon as it is placed. Copies are "
            "no choices: where that EOS may be replaced, as by `token_editing`, they could be "
            "emitted, and the file is refused (NLD122).",
            "repeat.eos_ids": "`eos_token_id[0]` of a list",
            "repeat.exhausted": "the argmax without the mask token. There, of the forward that "
            "refreshes the keys, after which it is run again; here, of the last round.",
        },
    ),
    "vllm": Preset(
        "vLLM's masked block diffusion",
        "`vllm/model_executor/models/nemotron_dllm.py`, as proposed in vllm-project/vllm pull "
        "request 48279; open when they were read",
        {
            "sample.mask_token": "its logit is set to -inf",
            "score.mask_token": "its logit is set to -inf before the normalizer",
            "score.of": "top-k and top-p take tokens out; of the others the unscaled logits count",
            "rows.seed": "a block (canvas) is masks alone",
            "repeat.keys": "one causal forward over the finished block, the commit step",
            "repeat.eos": "the denoising step does not look for one; the scheduler cuts what comes "
            "after it",
            "repeat.eos_ids": "inferred, and without effect while `eos` is ignored",
            "repeat.exhausted": "the last step of the budget reveals every row that is left",
        },
    ),
    "mlx": Preset(
        "MLX's `diffusionGenerate`",
        "`Libraries/MLXLLM/Models/NemotronLabsDiffusion.swift` of ml-explore/mlx-swift-lm, "
        "merged with pull request 310",
        {
            "sample.mask_token": "argmax over all logits; as for hf, a row that takes it counts as "
            "masked again there, and as filled here",
            "score.mask_token": "the normalizer is over all logits",
            "score.of": "inferred: that loop is greedy, so there is no temperature to apply",
            "rows.seed": "`causal_context = False`: a block is masks alone. Its linear "
            "self-speculation begins with the seed.",
            "repeat.keys": "one causal forward over the finished block",
            "repeat.eos": "the loop breaks at an EOS with no mask before it",
            "repeat.eos_ids": "one id is passed in",
            "repeat.exhausted": "as for hf",
        },
    ),
}
"""The sources of each preset, and a note on every attribute."""

_HEAD = """\
# What engines do differently

Engines disagree at equal settings. Each choice is an attribute of an op, and the default is what
the loops released with the checkpoints do, but for their mistakes. A preset sets all of them as one
engine has them; what a file writes itself wins.

<!-- example -->
```yaml
compat: vllm                                           # at the top of the file
pick: {op: sample, logits: seen, mask_token: allowed}  # this one stays as written
```

`FILE@PRESET` does the same from outside, wherever a file or a strategy of the library is named:

<!-- exit: 1 -->
```sh
nldc diff block_diffusion block_diffusion@vllm
```

```sh
nldc compile block_diffusion@sglang -o build/as_sglang
```

In `denoise`, which writes a loop for you, `mask_token` is that of its `sample`; that of its
`score`, and `of`, stand under `commit`, as in `commit: {confidence: 0.9, mask_token: ignored}`.

`keys: kept` needs no forward after the loop, and so there is no causal choice to seed the next
block with:

<!-- in: block_diffusion -->
```yaml
step:
  block:  {op: rows, segments: [{masks: 16}]}
  filled: {op: denoise, rows: block, attention: bidirectional, commit: {steps: 8}, keys: kept}
  emit:   {tokens: filled, cache: keep all}
```

A preset sets choices and nothing else: block lengths, thresholds (`>` or `>=`), the order of equal
scores and the random numbers of an engine stay its own. A strategy that promises to be `exact` does
not keep that promise under a preset that forbids the mask token, which AR may choose, and the
compiler says so.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD, "## Attributes\n"]
    for attribute in ATTRIBUTES:
        parts.append(f"### `{attribute.op}`: `{attribute.key}`\n\n{attribute.question}\n")
        meanings: list[tuple[str, ...]] = [
            (f"`{value}`" + (" (default)" if value == attribute.default else ""), meaning)
            for value, meaning in attribute.values.items()
        ]
        parts.append(_table(("value", "meaning"), meanings))
        parts.append(f"Outputs can part: {attribute.situation}.\n")
    parts.append("## Presets\n")
    rows: list[tuple[str, ...]] = [
        (f"`{attribute.name}`", *(f"`{values[attribute.name]}`" for values in PRESETS.values()))
        for attribute in ATTRIBUTES
    ]
    parts.append(_table(("attribute", *(f"`{name}`" for name in PRESETS)), rows))
    for name, preset in SOURCES.items():
        parts.append(f"### `{name}`: {preset.title}\n")
        parts.append(f"From {preset.source}.\n")
        notes: list[tuple[str, ...]] = [
            (
                f"`{attribute.name}`",
                f"`{PRESETS[name][attribute.name]}`",
                preset.notes[attribute.name],
            )
            for attribute in ATTRIBUTES
        ]
        parts.append(_table(("attribute", "value", "what the source does"), notes))
    return "\n".join(parts)


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/compat.md").write_text(
        page(), encoding="utf-8"
    )
