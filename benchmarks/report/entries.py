"""Every table of figures in README and docs/: its page, its block, and its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.report import demo, devices, light, proofs, strategies
from benchmarks.report.sources import Record, Source

LIBRARY = "strategies/*.yaml"
LOADED = (
    "nldc/demo/config.json", "nldc/demo/*.safetensors", "nldc/demo/tokenizer.json",
    "nldc/demo/heldout.jsonl", "nldc/demo/linear_spec_lora/*",
)  # fmt: skip
SAMPLER = "nldc/demo/commit_sampler/*"
COST = ("nldc/cost/*.py", "nldc/cost/devices/*.yaml")

PROOFS = Source(
    "proofs",
    "cheap",
    "nldc check",
    (LIBRARY, "tests/lossless/unusual/*.yaml"),
    proofs.proofs,
    anywhere=True,
)
MUTANTS = Source(
    "soundness-mutants", "steady", "python -m tests.lossless.report mutants",
    ("tests/lossless/mutants*.yaml", LIBRARY, "tests/lossless/unusual/*.yaml"),
    proofs.mutants, anywhere=True,
)  # fmt: skip
EDITS = Source(
    "soundness-edits", "cheap", "python -m tests.lossless.report edits",
    ("tests/lossless/mutants_artifacts.yaml",), proofs.edits, anywhere=True,
)  # fmt: skip
TRIED = Source(
    "soundness-tried", "kept", "python -m tests.lossless.report tried --tally FILE",
    ("tests/lossless/soundness.py",),
)  # fmt: skip
FUZZED = Source(
    "soundness-fuzzed", "kept", "python -m tests.lossless.report fuzzed --fuzz-tally FILE",
    ("tests/lossless/fuzz.py",),
)  # fmt: skip
DAMAGED = Source("fuzz", "kept", "python -m tests.fuzz --report fuzz.json", ("tests/fuzz/*.py",))
FORWARDS = Source(
    "strategies", "steady", "make report ONLY=strategies", (LIBRARY, *LOADED, SAMPLER),
    strategies.forwards,
)  # fmt: skip
SPEEDS = Source(
    "strategies-speed", "timed", "make report ONLY=strategies-speed", (LIBRARY, *LOADED, SAMPLER),
    strategies.speeds,
)  # fmt: skip
TAPERED = Source(
    "tapered", "steady", "make report ONLY=tapered",
    ("strategies/quadratic_ss*.yaml", *LOADED), strategies.tapered,
)  # fmt: skip
LIGHT = Source(
    "sol", "steady", f"nldc sol {' '.join(light.DRAWN)}",
    (*(f"strategies/{name}.yaml" for name in light.DRAWN), *LOADED), light.speed_of_light,
)  # fmt: skip
SAMPLED = Source(
    "sampler", "steady", "python benchmarks/trained_sampler.py",
    ("strategies/block_diffusion.yaml", "strategies/trained_sampler.yaml", *LOADED, SAMPLER),
    demo.sampled,
)  # fmt: skip
EVALUATED = Source(
    "demo-acceptance", "steady", "python -m nldc.runtime.train report nldc/demo", LOADED[1:],
    demo.evaluated,
)  # fmt: skip
TRAINED = Source(
    "demo-trained", "kept", "python -m nldc.runtime.train base runs/demo",
    ("runtime/train/recipe.py", "docs/assets/demo-losses.csv"),
)  # fmt: skip
LOSSES = Source(
    "demo-losses", "kept", "python -m nldc.runtime.train plot docs/assets/demo-losses.csv "
    "docs/assets/demo-losses.png", ("docs/assets/demo-losses.csv", "docs/assets/demo-losses.png"),
)  # fmt: skip
CONSTANTS = Source("cost-constants", "cheap", "make report", COST, devices.constants, anywhere=True)
PREDICTED = Source(
    "cost-predicted", "cheap", "nldc explain --device h200", (*COST, "strategies/linear_ss.yaml"),
    devices.predictions, anywhere=True,
)  # fmt: skip
BY_HAND = Source(
    "h200-by-hand",
    "kept",
    "an experiment with kernels written by hand, not in the repository",
    ("nldc/cost/devices/h200.yaml",),
)
REPLAYED = Source(
    "h200-replayed",
    "cheap",
    "make gpu-report",
    (devices.REPORT,),
    devices.replayed,
    devices.replayed_at,
)
SOAKED = Source("serving-soak", "kept", "make soak", ("tests/serve/soak.py",))
SERVED = Source(
    "serving-speed",
    "cheap",
    "make serve-bench",
    (devices.SERVED,),
    devices.served,
    devices.served_at,
)


@dataclass(frozen=True)
class Block:
    """A marked part of a page, written from the figures of its sources, in their order."""

    name: str
    page: str
    sources: tuple[Source, ...]
    write: Callable[..., str]

    def text(self, *records: Record) -> str:
        """Return what stands in the block: the figures, and where they come from."""
        said = "\n".join(record.said() for record in records)
        return f"{self.write(*records)}\n{said}\n"


def brought(record: Record) -> str:
    """Return figures that were brought as Markdown."""
    return "\n".join(record.data) + "\n"


BLOCKS = (
    Block("library", "README.md", (PROOFS,), proofs.library_table),
    Block("strategies", "README.md", (FORWARDS, SPEEDS), strategies.strategies_table),
    Block("certified", "docs/soundness.md", (PROOFS,), proofs.certified_table),
    Block("mutants", "docs/soundness.md", (MUTANTS,), proofs.mutants_table),
    Block("edits", "docs/soundness.md", (EDITS,), proofs.edits_text),
    Block("tried", "docs/soundness.md", (TRIED,), brought),
    Block("fuzzed", "docs/soundness.md", (FUZZED,), brought),
    Block("damaged", "docs/fuzz.md", (DAMAGED,), brought),
    Block("light-accepted", "docs/sol.md", (LIGHT,), light.accepted_table),
    Block("light-reached", "docs/sol.md", (LIGHT,), light.reached_table),
    Block("trained", "docs/demo-model.md", (TRAINED,), brought),
    Block("losses", "docs/demo-model.md", (LOSSES,), brought),
    Block("acceptance", "docs/demo-model.md", (EVALUATED,), demo.evaluated_table),
    Block("drafter", "docs/demo-model.md", (EVALUATED,), demo.drafter_table),
    Block("sampler", "docs/demo-model.md", (SAMPLED,), demo.sampled_table),
    Block("tapered", "docs/howto/tapered.md", (TAPERED,), strategies.tapered_table),
    Block("constants", "docs/performance.md", (CONSTANTS,), devices.constants_table),
    Block("by-hand", "docs/performance.md", (PREDICTED, BY_HAND), devices.predicted_table),
    Block("replayed", "docs/performance.md", (REPLAYED, PREDICTED), devices.replayed_table),
    Block("soak", "docs/serving.md", (SOAKED,), brought),
    Block("served", "docs/serving.md", (SERVED,), devices.served_table),
)
SOURCES = tuple(dict.fromkeys(source for block in BLOCKS for source in block.sources))
