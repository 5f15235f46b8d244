"""`certify` runs an artifact's own code: right ones pass, wrong ones are found out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from nldc import api
from nldc.certify import QUICK, certify
from nldc.certify.run import SCENARIOS
from nldc.cli import cli
from nldc.diagnostics import InternalError, StrategyError
from nldc.runtime.errors import ArtifactError
from nldc.runtime.step import ops
from tests.lossless.mutants import STRATEGIES, UNUSUAL, Mutant, base_text, mutants

SMALL = {"block_length": 4, "k": 4, "length": 4}
SMALL_BLOCK = {"block_length": 4}
RIGHT = ("ar", "linear_ss", "linear_ss_lora", "quadratic_ss_lora", "tidar", "prompt_lookup")
NAMES = (
    "linear_verifier_bidirectional", "linear_adapter_left_on", "linear_keeps_all",
    "linear_cropped_too_far", "linear_bonus_of_draft", "linear_one_row_ahead",
    "linear_unshifted_compare", "quadratic_all_drafts_seen", "quadratic_masks_seen",
    "quadratic_seed_of_mask", "quadratic_adapter_on_drafts", "tidar_verifier_of_masks",
)  # fmt: skip
WRONG = [mutant for mutant in mutants() if mutant.name in NAMES]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def compiled(text: str, folder: Path) -> Path:
    file = folder / "strategy.yaml"
    file.write_text(text, encoding="utf-8")
    source_params = api.load_source(file).data.get("params") or {}
    given = {name: value for name, value in SMALL.items() if name in source_params}
    return api.compile(file, folder / "artifact", given, certify=False)


def in_text(
    generate: Callable[[Sequence[api.Checked]], Mapping[str, bytes]],
) -> Callable[[Sequence[api.Checked]], dict[str, str]]:
    """Return what generates the same files as text, to be edited."""
    return lambda checked: {name: data.decode() for name, data in generate(checked).items()}


def sealed(files: Mapping[str, str]) -> dict[str, str]:
    """Return edited files with a manifest that knows them."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: hashlib.sha256(files[name].encode()).hexdigest() for name in manifest["files"]
    }
    return {**files, "manifest.json": json.dumps(manifest)}


@pytest.mark.parametrize("strategy", RIGHT)
def test_exact_artifacts_hold_with_every_acceptance_count(strategy: str, tmp_path: Path) -> None:
    report = certify(compiled(base_text(strategy), tmp_path), tokens=16)
    assert report.difference is None
    assert report.holds
    rows = 1 if strategy == "ar" else 5 if strategy == "prompt_lookup" else 4
    assert {count for count, _ in report.accepted} == set(range(1, rows + 1))


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(UNUSUAL.glob("*.yaml")), ids=lambda path: path.stem)
def test_unusual_artifacts_hold(path: Path, tmp_path: Path) -> None:
    assert certify(compiled(base_text(path.stem), tmp_path), tokens=16).difference is None


@pytest.mark.parametrize("mutant", WRONG, ids=lambda mutant: mutant.name)
def test_compiled_mutants_are_found_out(mutant: Mutant, tmp_path: Path) -> None:
    text = mutant.text().replace("guarantee: exact", "guarantee: none")
    report = certify(compiled(text, tmp_path), tokens=16)
    if report.fault is None:
        assert report.difference is not None
        assert "differs from AR, as it may" in report.text()
    else:
        assert mutant.code == "NLD113"  # the cache grows faster than the text, without end
        assert "FAULTY" in report.text()


@pytest.mark.parametrize("name", ["quadratic_groups_at_one_place", "quadratic_keeps_groups"])
def test_rows_kept_out_of_order_do_not_compile_whatever_is_promised(
    name: str, tmp_path: Path
) -> None:
    mutant = next(mutant for mutant in mutants() if mutant.name == name)
    with pytest.raises(StrategyError, match="NLD115"):
        compiled(mutant.text().replace("guarantee: exact", "guarantee: none"), tmp_path)


def test_an_edit_of_the_generated_code_is_found_out_even_with_its_digest(tmp_path: Path) -> None:
    folder = compiled(base_text("linear_ss"), tmp_path)
    code, manifest = folder / "decode.py", folder / "manifest.json"
    text = code.read_text("utf-8").replace("keep=kept.rows", "keep=kept.matches")
    code.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="edited by hand"):
        certify(folder)
    data = json.loads(manifest.read_text("utf-8"))
    data["files"]["decode.py"] = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(data), encoding="utf-8")
    report = certify(folder, tokens=8)
    assert not report.holds
    assert "trails the text" in report.text()


def test_the_compiled_guarantee_is_in_the_artifact(tmp_path: Path) -> None:
    folder = compiled(base_text("linear_ss"), tmp_path)
    certificate = json.loads((folder / "certificate.json").read_text("utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert certificate["proved"] == manifest["guarantee"]["proved"] == "exact"
    assert "Guarantee: exact (proved)" in (folder / "decode.py").read_text("utf-8")


def test_the_re_checker_uses_nothing_of_the_compiler() -> None:
    files = sorted((STRATEGIES.parent / "nldc" / "certify").glob("*.py"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    imports = [line for line in lines if "import" in line and "nldc" in line]
    assert len(imports) > 10
    assert not [line for line in imports if any(p in line for p in ("nldc.ir", "nldc.check"))]
    assert not [line for line in imports if "nldc.codegen" in line or "nldc.interpret" in line]


# What `compile` does with it


def test_compiling_runs_the_artifact_and_writes_none_whose_code_is_not_ar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    api.compile("linear_ss", out, SMALL_BLOCK)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    generated = in_text(api.generate)

    def wrong(checked: Sequence[api.Checked], _: object) -> dict[str, str]:
        files = generated(checked)
        files["decode.py"] = files["decode.py"].replace("offset=1", "offset=0")
        return sealed(files)

    monkeypatch.setattr(api, "generate", wrong)
    with pytest.raises(InternalError, match=r"`linear_ss` .*AR has") as caught:
        api.compile("linear_ss", out, SMALL_BLOCK)
    assert "This is a bug in nldc, not in your strategy" in str(caught.value)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    with pytest.raises(InternalError):
        api.compile("linear_ss", tmp_path / "new", SMALL_BLOCK)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert api.compile("linear_ss", tmp_path / "new", SMALL_BLOCK, certify=False).is_dir()


def test_generated_code_that_raises_is_a_bug_whatever_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = in_text(api.generate)
    monkeypatch.setattr(
        api,
        "generate",
        lambda checked, _: sealed(
            {
                name: text.replace("filled_pick)", "pick)")
                for name, text in generated(checked).items()
            }
        ),
    )
    with pytest.raises(InternalError, match=r"`block_diffusion` .*NameError"):
        api.compile("block_diffusion", tmp_path / "out")
    assert not (tmp_path / "out").exists()


GROWING = """nldc: 1
name: growing
summary: Each step keeps two rows, and the prompt is kept twice.
guarantee: none
prefill:
  once:    {op: forward, tokens: $prompt, attention: causal, cache: append}
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}
step:
  first:   {op: forward, tokens: seed, attention: causal, cache: append}
  second:  {op: forward, tokens: seed, attention: causal, cache: append}
  choice:  {op: sample, logits: second}
  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}
"""
ROWS = {"PROMPT_ROWS": 2, "TOKEN_ROWS": 2, "SCRATCH_ROWS": 2}


def test_what_promises_nothing_may_keep_as_many_rows_as_its_class_says(tmp_path: Path) -> None:
    file = tmp_path / "growing.yaml"
    file.write_text(GROWING, encoding="utf-8")
    folder = api.compile(file, tmp_path / "out")
    kind = api.load(folder)
    assert {name: getattr(kind, name) for name in ROWS} == ROWS
    assert certify(folder, tokens=40).fault is None
    mutant = next(mutant for mutant in mutants() if mutant.name == "linear_keeps_all")
    file.write_text(mutant.text().replace("guarantee: exact", "guarantee: none"), encoding="utf-8")
    api.compile(file, tmp_path / "keeps_all", SMALL_BLOCK)


@pytest.mark.parametrize("name", ["PROMPT_ROWS", "TOKEN_ROWS"])
def test_a_class_that_says_too_few_rows_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "growing.yaml"
    file.write_text(GROWING, encoding="utf-8")
    generated = in_text(api.generate)
    monkeypatch.setattr(
        api,
        "generate",
        lambda checked, _: sealed(
            {
                n: text.replace(f"{name} = 2", f"{name} = 1")
                for n, text in generated(checked).items()
            }
        ),
    )
    with pytest.raises(ArtifactError, match=r"`growing` cannot .* has no room") as found:
        api.compile(file, tmp_path / "out")
    assert found.value.hint is not None
    assert not (tmp_path / "out").exists()


def test_the_command_line_compiles_unchecked_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = in_text(api.generate)
    monkeypatch.setattr(
        api,
        "generate",
        lambda checked, _: sealed(
            {n: text.replace("keep=kept.rows", "keep=kept.matches")
             for n, text in generated(checked).items()}
        ),
    )  # fmt: skip
    arguments = ["compile", "linear_ss", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 70
    assert "`linear_ss`" in found.stderr
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(cli, [*arguments, "--no-certify"]).exit_code == 0


def test_strategies_are_also_certified_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = in_text(api.generate)
    monkeypatch.setattr(
        api,
        "generate",
        lambda checked, _: sealed(
            {n: text.replace("skips=1", "skips=0") for n, text in generated(checked).items()}
        ),
    )
    with pytest.raises(InternalError, match=r"`ar\+quadratic_ss`"):
        api.compile(["ar", "quadratic_ss"], tmp_path / "out", SMALL_BLOCK)


@pytest.mark.parametrize("strategy", sorted(api.library()))
def test_certifying_while_compiling_takes_no_time_to_speak_of(
    strategy: str, tmp_path: Path
) -> None:
    artifact = api.compile(strategy, tmp_path / "out", certify=False)
    start = time.process_time()
    assert certify(artifact, QUICK, quick=True).holds
    assert time.process_time() - start < 3


def test_certifying_leaves_no_modules_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    api.compile("ar", tmp_path / "out")
    assert not [name for name in set(sys.modules) - before if name.startswith("nldc_artifact_")]


@pytest.mark.parametrize("strategy", ["ar", "linear_ss_iterative", "tidar", "block_diffusion"])
def test_scenarios_cover_ends_thinking_embeddings_and_long_prompts(
    strategy: str, tmp_path: Path
) -> None:
    """Each scenario of the table runs, so that none of its kinds is only written down."""
    assert any(scenario.embedded for scenario in SCENARIOS)
    assert any(scenario.forbidden for scenario in SCENARIOS)
    assert any(not scenario.adapters for scenario in SCENARIOS)
    assert any(scenario.thinking is not None for scenario in SCENARIOS)
    assert {1, 200} <= {length for scenario in SCENARIOS for length in scenario.lengths}
    report = certify(api.compile(strategy, tmp_path / "out", certify=False), QUICK)
    assert report.holds
    assert report.sequences >= sum(len(scenario.lengths) for scenario in SCENARIOS) or (
        report.claimed == "none"
    )


def test_short_steps_meet_drafts_of_every_length_as_long_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By turns, and with a plan of their own: `route` would seldom take them."""
    folder = api.compile("linear_ss_adaptive", tmp_path / "made", certify=False)
    kept, accept = Counter[int](), ops.accept_longest_prefix

    def counted(draft: Any, target: Any, **rest: Any) -> Any:
        found = accept(draft, target, **rest)
        if draft.shape[1] == 5:
            kept.update(found.rows.tolist())
        return found

    monkeypatch.setattr(ops, "accept_longest_prefix", counted)
    assert certify(folder, tokens=QUICK).holds
    assert set(kept) == {1, 2, 3, 4, 5}
    assert min(kept.values()) >= 10
