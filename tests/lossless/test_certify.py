"""`certify` runs an artifact's own code: right ones pass, wrong ones are found out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from nldc import api
from nldc.certify import certify
from nldc.diagnostics import StrategyError
from nldc.runtime.errors import ArtifactError
from tests.lossless.mutants import STRATEGIES, UNUSUAL, Mutant, base_text, mutants

SMALL = {"block_length": 4, "k": 4, "length": 4}
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
    return api.compile(file, folder / "artifact", given)


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
    assert report.difference is not None
    assert "differs from AR, as it may" in report.text()


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
