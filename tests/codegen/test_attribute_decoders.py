"""For every value of every attribute, the generated decoder does what the interpreter says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from attribute_strategies import CHECKPOINT, KEPT, Reference, sampled, seeded, with_mask_token

from nldc import api
from nldc.interpret import run
from nldc.ir.attributes import ATTRIBUTE, PRESETS
from nldc.runtime import Decoder
from nldc.runtime.step.sampling import Sampling

PROMPTS = [[1, 38, 26], [5], [7, 12, 7, 31], [1, 9], [8, 3, 3]]
TOKENS = 14
EOS = (53, 3, 13, 57)
"""Several ids that often end a block; the first is not the least."""

SECOND = (
    "fast: {op: denoise, rows: filled, attention: bidirectional, commit: {steps: 2}, at_least: 0}"
)
VARIANTS: dict[str, str] = {
    "defaults": seeded(),
    "sample.mask_token=forbidden": seeded(sample="mask_token: forbidden"),
    "score.mask_token=ignored": seeded(score="mask_token: ignored"),
    "score.of=filtered": seeded(score="of: filtered"),
    "score.of=processed": seeded(score="of: processed"),
    "rows.seed=masked": seeded(rows="seed: masked"),
    "repeat.eos=fills": seeded(repeat="eos: fills"),
    "repeat.eos=ignored": seeded(repeat="eos: ignored"),
    "repeat.eos_ids=first": seeded(repeat="eos_ids: first"),
    "repeat.exhausted=fill": seeded(
        repeat="exhausted: fill", at_most=2, rule="best: 1", later=SECOND
    ),
    "repeat.exhausted=keep": seeded(
        repeat="exhausted: keep", at_most=2, rule="best: 1", later=SECOND
    ),
    "repeat.keys=kept": KEPT.replace("THRESHOLD", "0.05"),
    "keys kept of one round": KEPT.replace("THRESHOLD", "0.0"),
    "entropy without the mask token": seeded(
        by="by: entropy", score="mask_token: ignored, of: processed", rule="at_most: 2.0"
    ),
    "margin without the mask token": seeded(
        by="by: margin", score="mask_token: ignored, of: filtered", rule="at_least: 0.05"
    ),
    "a first EOS that fills, and a budget": seeded(
        repeat="{eos: fills, eos_ids: first, exhausted: fill}"[1:-1].replace(", ", "\n    "),
        at_most=2,
        rule="best: 1",
    ),
    "a loop that may not run": seeded(
        repeat="exhausted: fill", at_most=2, at_least=0, rule="best: 1"
    ),
}
GREEDY = Sampling()
DRAWN = Sampling(temperature=0.7, top_k=12, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose mask token is the one that AR chooses most."""
    root = tmp_path_factory.mktemp("checkpoint")
    ar = api.load(api.compile("ar", root / "ar", certify=False)).from_checkpoint(
        CHECKPOINT, dtype="float64", device="cpu", adapter=None
    )
    tokens = ar.generate(PROMPTS, max_new_tokens=TOKENS, eos=()).tokens
    counts = Counter(token for line in tokens for token in line)
    return with_mask_token(root / "often", counts.most_common(1)[0][0])


def decoder_of(text: str, folder: Path, checkpoint: Path, name: str = "strategy") -> Decoder:
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    compiled = api.load(api.compile(file, folder / name, certify=False))
    return compiled.from_checkpoint(
        checkpoint, dtype="float64", device="cpu", adapter=None, backend="torch"
    )


@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_decoder_does_what_the_interpreter_says(
    name: str, options: Sampling, tmp_path: Path, checkpoint: Path
) -> None:
    decoder = decoder_of(VARIANTS[name], tmp_path, checkpoint)
    graph = api.check(tmp_path / "strategy.yaml").graph
    result = decoder.generate(
        PROMPTS,
        max_new_tokens=TOKENS,
        eos=EOS,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    for sequence, prompt in enumerate(PROMPTS):
        choose, views = sampled(options, sequence)
        model = Reference(decoder, EOS)
        expected = run(graph, model, prompt, TOKENS, choose, views=views)
        assert result.tokens[sequence] == list(expected.tokens)
        assert result.stats[sequence].nfe == expected.nfe
        assert result.stats[sequence].accepted == list(expected.accepted)


def test_every_value_of_every_attribute_is_tried() -> None:
    tried = {name for name in VARIANTS if "=" in name}
    values = {f"{name}={value}" for name, each in ATTRIBUTE.items() for value in each.values}
    defaults = {f"{name}={each.default}" for name, each in ATTRIBUTE.items()}
    assert values - defaults <= tried


def test_every_attribute_changes_what_comes_out(tmp_path: Path, checkpoint: Path) -> None:
    """Else the tests above would prove little."""

    def outcome(text: str, name: str) -> object:
        decoder = decoder_of(text, tmp_path, checkpoint, name)
        outcomes = []
        for options in ({}, {"temperature": 0.7, "top_k": 12, "top_p": 0.9}):
            result = decoder.generate(PROMPTS, max_new_tokens=TOKENS, eos=EOS, **options)
            outcomes.append((result.tokens, [stats.nfe for stats in result.stats]))
        return outcomes

    known: dict[str, object] = {}
    for number, (name, text) in enumerate(VARIANTS.items()):
        if "=" in name and name not in ("repeat.exhausted=keep", "repeat.keys=kept"):
            base = VARIANTS["repeat.exhausted=keep" if "exhausted" in name else "defaults"]
            if base not in known:
                known[base] = outcome(base, f"base{number}")
            assert outcome(text, f"variant{number}") != known[base], name


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_the_file_leaves_open_and_no_more(preset: str, tmp_path: Path) -> None:
    file = tmp_path / "seeded.yaml"
    file.write_text(seeded(sample="mask_token: allowed", repeat="eos: stops"), encoding="utf-8")
    graph = api.check(f"{file}@{preset}").graph
    values = PRESETS[preset]
    loop = graph.node("step.filled").op
    score = graph.node("step.filled.sure").op
    assert graph.compat == preset
    assert graph.node("step.block").op.seed == values["rows.seed"]
    assert graph.node("step.after").op.mask_token == values["sample.mask_token"]
    assert graph.node("step.filled.pick").op.mask_token == "allowed"
    assert (score.of, score.mask_token) == (values["score.of"], values["score.mask_token"])
    assert loop.eos == "stops"
    assert loop.eos_ids == values["repeat.eos_ids"]
    assert loop.exhausted == values["repeat.exhausted"]
    assert loop.keys == values["repeat.keys"]
