"""Kernels compiled for GPUs that are not here, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("triton")

import torch

from nldc import api
from nldc.ahead import compiling
from nldc.ahead.compiling import Ahead
from nldc.ahead.text import lines_of
from nldc.ahead.uses import uses_of
from nldc.cli import cli
from nldc.cost.geometry import RELEASED
from nldc.runtime.abi import SAMPLER_FOLDER
from nldc.runtime.artifact import read_artifact
from nldc.runtime.checkpoint.sampler import CONFIG, KIND, SamplerShape
from nldc.runtime.errors import AdapterError, ArtifactError
from nldc.runtime.kernels.coverage import Coverage, Forward, Geometry, Head, Kernel
from nldc.runtime.kernels.forward import HeadRows, Looks, LowRank, Rows, any_length, kernels
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.occupancy import occupancy

MODEL = Path(__file__).parent / "golden_checkpoints" / "random-1"
KERNELS = {
    "a" * 32: Kernel("product 64x32 rows 16", 40, 0, 4096, 0.5),
    "b" * 32: Kernel("product 64x32 rows 32", 90, 24, 8192, 0.25),
    "c" * 32: Kernel("rotary 2+2*1 x 8 parts 1", None, None, 0, None),
}


def coverage() -> Coverage:
    return Coverage(
        triton="3.9.0",
        dtype="bfloat16",
        batch=4,
        geometry=Geometry(
            "tiny", 32, 96, 2, 1, 8, 61, {"output": LowRank(4, 4, 16, 32)}, (SamplerShape(),)
        ),
        strategies={
            name: uses_of(api.check(name, others=False).graph)
            for name in ("linear_ss", "trained_sampler")
        },
        kernels={"cuda:90": KERNELS},
    )


def compiled(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Another process: this one may interpret kernels, and cannot do both.
    return subprocess.run(
        [sys.executable, "-m", "nldc.cli", "compile", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_kernels_lie_in_the_artifact_under_its_digests_and_what_they_take_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def stub(_: object, targets: object, **options: object) -> Ahead:
        asked.update(options, targets=targets)
        text = json.dumps(coverage().data()).encode()
        return Ahead(coverage(), {"kernels.json": text, "kernels_cuda-90.zip": b"code"}, 3.0)

    monkeypatch.setattr(compiling, "compile_ahead", stub)
    out = tmp_path / "out"
    arguments = ["--target", "cuda:90", "--geometry", "8b", "--batch", "4", "--no-certify"]
    done = CliRunner().invoke(cli, ["compile", "linear_ss", "ar", "-o", str(out), *arguments])
    assert done.exit_code == 0, done.output
    assert asked == {
        "targets": ("cuda:90",), "geometry": "8b", "dtype": "bfloat16", "batch": 4, "jobs": None,
        "progress": None,
    }  # fmt: skip
    lines = done.output.splitlines()
    (head,) = [number for number, line in enumerate(lines) if "kernels for cuda:90" in line]
    assert lines[head].startswith("3 kernels for cuda:90, bfloat16, tiny, with its adapter and")
    assert [line.split() for line in lines[head + 2 : head + 5]] == [
        ["product", "64x32", "2", "40-90", "0-24", "4-8", "25-50"],
        ["rotary", "2+2*1", "x", "8", "1", "?", "?", "0", "?"],
        ["product", "64x32", "rows", "32", "spills", "24", "bytes", "a", "thread"],
    ]
    files = read_artifact(out).files
    assert files["kernels_cuda-90.zip"] == b"code"
    assert Coverage.read(files["kernels.json"]) == coverage()
    (out / "kernels_cuda-90.zip").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="edited by hand"):
        api.load(out)


def test_a_coverage_of_another_kind_is_refused() -> None:
    data = coverage().data()
    for broken in ({**data, "kernels_ahead": 1}, {**data, "dtypes": []}, {"kernels_ahead": 2}, 7):
        with pytest.raises(ArtifactError, match="is damaged"):
            Coverage.read(json.dumps(broken).encode())


def test_a_strategy_says_what_it_runs() -> None:
    uses = uses_of(api.check("linear_ss_lora", {"block_length": 8}, others=False).graph)
    assert uses.forwards == (
        Forward("CAUSAL", (1, 1024), batched=False, adapted=False),
        Forward("BIDIRECTIONAL", 8, batched=True, adapted=True),
        Forward("CAUSAL", 8, batched=True, adapted=False),
    )
    assert uses.heads == (Head(1, batched=False), Head(8, batched=True))
    assert (uses.candidates, uses.blocks) == ((), ())
    uses = uses_of(api.check("linear_ss_tree", others=False).graph)
    assert uses.candidates == (2,)
    scored = uses_of(api.check("margin_confidence", {"block_length": 4}, others=False).graph).heads
    assert scored == (Head(1, False), Head(4, True, "chosen"), Head(1, True))
    asked = uses_of(api.check("trained_sampler", {"block_length": 24}, others=False).graph)
    assert asked.blocks == (24,)
    (first, *_) = uses_of(api.check("quadratic_ss", others=False).graph).forwards
    assert first.rows == (1, None)  # it sees rows ahead: a prompt of any length is one piece


def test_kernels_of_samplers_are_those_of_the_blocks_that_they_are_asked_of() -> None:
    shapes = (SamplerShape(), SamplerShape(layers=9, rows=99), SamplerShape(width=256, top=16))
    model = replace(coverage().geometry, samplers=shapes).sizes(torch.bfloat16)

    def names(*blocks: int) -> list[str]:
        found = kernels(model, (), (), Target(90), Looks(blocks=frozenset(blocks)))
        return [each.name for each in found if not each.name.startswith("moved")]

    assert names() == []
    assert names(10, 24, 30) == [  # the widest one is torch's, and the others are alike
        "candidate parts 8 of 61", "candidates 8 of 61", "masses of 61", "features 8 of 61",
        "safety 64 heads 4 top 8 rows 16", "safety 64 heads 4 top 8 rows 32",
    ]  # fmt: skip


def test_whoever_has_a_head_may_choose_of_its_logits() -> None:
    """As a sequence with a thinking budget does, or one beside a processor."""
    model = coverage().geometry.sizes(torch.bfloat16)
    names = {each.name for each in kernels(model, (), (HeadRows(1),), Target(90), Looks())}
    assert {"scan 61 token", "scan 61 token noisy", "filtered 61"} <= names


def test_the_samplers_that_are_compiled_for_are_the_checkpoints_own(tmp_path: Path) -> None:
    checked = api.check_together(["trained_sampler", "ar"], others=False)
    usual = compiling.samplers_of(checked, "8b")
    assert usual == compiling.samplers_of(checked, tmp_path) == (SamplerShape(),)
    place = tmp_path / SAMPLER_FOLDER
    place.mkdir()
    (place / CONFIG).write_text(
        json.dumps({"kind": KIND, "width": 32, "layers": 1, "heads": 2, "rows": 9, "top": 5})
    )
    assert compiling.samplers_of(checked, tmp_path) == (SamplerShape(32, 1, 2, 9, 5),)
    assert compiling.samplers_of(checked[1:], tmp_path) == ()
    (place / CONFIG).write_text("{}")
    with pytest.raises(AdapterError, match="describes no sampler"):
        compiling.samplers_of(checked, tmp_path)


@pytest.mark.parametrize("size", ["3b", "8b", "14b"])
def test_more_rows_than_are_listed_get_no_other_kernels(size: str) -> None:
    """What is asked for of a prompt of any length holds beyond it."""
    model = replace(coverage(), geometry=_of(size))
    sizes = model.geometry.sizes(torch.bfloat16)

    def names(counts: tuple[int, ...]) -> set[str]:
        forwards = [Rows(counts, 1, None, sees_prefix=True, adapted=True)]
        heads = [HeadRows(1)]
        return {
            f"{one.name} {one.constants}"
            for one in kernels(sizes, forwards, heads, Target(90), Looks())
        }

    listed = names(any_length())
    assert names((5001, 77777, 131073, 200001)) <= listed
    assert len(listed) < 130


def _of(size: str) -> Geometry:
    model = RELEASED[size]
    low = LowRank(128, 128, 4096, model.hidden)
    return Geometry(
        size, model.hidden, model.intermediate, 32, 8, 128, model.vocabulary, {"output": low}
    )


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "share"),
    [
        (90, 128, 255, 0, 0.125),  # two blocks by their registers
        (90, 128, 32, 0, 1.0),
        (90, 256, 64, 100 * 1024, 0.25),  # two blocks by shared memory
        (90, 256, 64, 227 * 1024, 0.125),  # one, that takes all a block may have
        (80, 32, 16, 0, 0.5),  # 32 blocks are the most
        (None, 128, 64, 0, None),
        (90, 128, None, 0, None),
    ],
)
def test_occupancy_is_what_limits_first(
    arch: int | None, threads: int, registers: int | None, shared: int, share: float | None
) -> None:
    assert occupancy(arch, threads, registers, shared) == share


def test_kernels_of_one_kind_are_one_line() -> None:
    assert [line[0] for line in lines_of(KERNELS.values())] == [
        "product 64x32", "rotary 2+2*1 x 8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "cuda:7"), "target 'cuda:7' is unknown"),
        (("--target", "tpu"), "the targets are cuda:80"),
        (("--target", "cuda:90", "--model", "nowhere"), "nowhere"),
        (("--target", "cuda:90", "--geometry", "4b"), "there is no geometry `4b`"),
        (("--dtype", "float32"), "give a target"),
        (("--geometry", "8b"), "give a target"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(cli, ["compile", "ar", "-o", str(tmp_path / "out"), *arguments])
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_every_kernel_of_two_strategies_says_what_it_takes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = compiled(
        "linear_ss", "quadratic_ss", "-o", out, "--target", "cuda:90", "--model", MODEL,
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Coverage.read(read_artifact(out).files["kernels.json"])
    assert found.strategies.keys() == {"linear_ss", "quadratic_ss"}
    (made,) = found.kernels.values()
    assert f"{len(made)} kernels for cuda:90, bfloat16, random-1" in done.stdout
    assert all(each.registers for each in made.values())


def test_where_kernels_are_interpreted_none_is_compiled_for_a_target(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = compiled("ar", "-o", out, "--target", "cuda:90", TRITON_INTERPRET="1")
    assert done.returncode in (1, 2)
    assert "unset TRITON_INTERPRET" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
