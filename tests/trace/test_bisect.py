"""Two runs that part: by a tie, by arithmetic, or by logic, and in which row."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from nldc import api
from nldc.bisect import AR, Bisected, Chooser, Parting, bisect
from nldc.cli import cli, tracing
from nldc.runtime.errors import PromptError
from tests.trace.conftest import CHECKPOINT, LOADING, Compiled

OPTIONS = {"max_new_tokens": 10}
MORE = {"max_new_tokens": 24}
COUNT = 4


def mutated(artifact: Path, folder: Path, old: str, new: str) -> Path:
    """An artifact with another line in its code, sealed as if it had been generated so."""
    shutil.copytree(artifact, folder)
    file = folder / "decode.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["decode.py"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def parting(found: Bisected) -> Parting:
    assert found.parting is not None
    return found.parting


@pytest.mark.parametrize(
    "name", ["linear_ss", pytest.param("quadratic_ss", marks=pytest.mark.long)]
)
def test_an_exact_artifact_and_ar_do_not_part(compiled: Compiled, name: str) -> None:
    found = bisect(
        compiled(name), model=CHECKPOINT, count=COUNT, loading=LOADING, generation=OPTIONS
    )
    assert found.names == (name, AR)
    assert (found.differing, found.parting) == (0, None)
    assert found.tokens == 10 * COUNT


SEES_AHEAD = ("STEP_CHECKED_ROWS, CAUSAL,", "STEP_CHECKED_ROWS, BIDIRECTIONAL,")
STORES_AHEAD = ("STEP_REFRESH_ROWS, CAUSAL,", "STEP_REFRESH_ROWS, BIDIRECTIONAL,")
LEANS_ON_DRAFTER = (
    "choice = batch.head_choose(checked)",
    "choice = batch.sample(batch.mix((batch.head(checked), batch.head(drafted_seen)), (0.9, 0.1)))",
)
KEEPS_ONE_MORE = ("keep=kept.rows, carry", "keep=kept.rows.clamp(max=3) + 1, carry")
CHOOSES_AT_RANDOM = (
    "choice = batch.head_choose(checked)",
    "choice = batch.head_choose(checked, temperature=9.0)",
)


def test_a_verifier_that_sees_ahead_is_logic_and_its_row_is_named(
    compiled: Compiled, tmp_path: Path
) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *SEES_AHEAD)
    found = bisect(
        wrong, compiled("ar"), CHECKPOINT, count=COUNT, loading=LOADING, generation=OPTIONS
    )
    part = parting(found)
    assert found.differing > 0
    assert part.verdict == "logic"
    assert (part.first.node, part.first.forward) == ("step.choice", "step.checked")
    assert part.first.row is not None
    assert part.first.place == "line 18 of linear_ss.yaml"
    assert (part.second.node, part.second.forward) == ("step.choice", "step.context")
    assert part.first.position == part.second.position
    said = "\n".join(part.evidence)
    assert "did not see the same" in said
    assert "ar: nothing there" in said
    position = part.first.position
    assert f"at position {position}, row {part.first.row + 1} of step.checked" in said


def test_a_cache_with_a_refused_draft_in_it_is_logic(compiled: Compiled, tmp_path: Path) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *KEEPS_ONE_MORE)
    part = parting(
        bisect(wrong, compiled("ar"), CHECKPOINT, count=COUNT, loading=LOADING, generation=OPTIONS)
    )
    assert part.verdict == "logic"
    assert "position" in part.evidence[0]


def test_cached_rows_that_were_computed_otherwise_are_logic_and_named(
    compiled: Compiled, tmp_path: Path
) -> None:
    right = compiled("block_diffusion")
    wrong = mutated(right, tmp_path / "wrong", *STORES_AHEAD)
    part = parting(bisect(wrong, right, CHECKPOINT, count=8, loading=LOADING, generation=MORE))
    assert part.verdict == "logic"
    said = "\n".join(part.evidence)
    assert "what they saw had itself seen" in said
    assert "of step.refresh in step" in said
    assert said.endswith("block_diffusion: nothing there")


def test_another_choice_of_the_same_logits_is_logic(compiled: Compiled, tmp_path: Path) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *CHOOSES_AT_RANDOM)
    part = parting(
        bisect(wrong, compiled("ar"), CHECKPOINT, count=COUNT, loading=LOADING, generation=OPTIONS)
    )
    assert part.verdict == "logic"
    assert part.evidence[-1] == "their logits are the same; the choice is another"
    assert part.apart == 0
    assert part.first.gap is not None
    assert part.first.gap < 0 < (part.second.gap or 0)


def test_a_mix_of_rows_is_logic_and_named(compiled: Compiled) -> None:
    for baseline, own in (("quadratic_ss", "the row's own logits"), ("ar", "in the row's own")):
        found = bisect(
            compiled("quadratic_ss_ensemble"), compiled(baseline), CHECKPOINT, count=COUNT,
            loading=LOADING, generation=OPTIONS,
        )  # fmt: skip
        part = parting(found)
        assert part.verdict == "logic"
        assert "not mixed alike" in part.evidence[0]
        assert part.evidence[1].endswith("in step.mixed: [0.5, 0.5]")
        assert own in part.evidence[2]


@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.8, "seed": 1}])
def test_logits_that_are_wrong_in_every_row_are_no_rounding(
    compiled: Compiled, tmp_path: Path, sampled: dict[str, float]
) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *LEANS_ON_DRAFTER)
    part = parting(
        bisect(
            wrong, compiled("ar"), CHECKPOINT, count=8, loading=LOADING,
            generation={**MORE, **sampled},
        )
    )  # fmt: skip
    assert part.noise is not None
    assert part.apart is not None
    assert 0.01 < part.apart < 8 * part.noise
    assert part.verdict == "logic"


def test_a_diffusion_and_a_speculative_strategy_part_by_logic(compiled: Compiled) -> None:
    found = bisect(
        compiled("block_diffusion"), compiled("linear_ss"), CHECKPOINT, count=COUNT,
        loading=LOADING, generation=OPTIONS,
    )  # fmt: skip
    assert parting(found).verdict == "logic"


def near(folder: Path, change: float, *, exact: bool = False) -> Path:
    """The small checkpoint; the tokens that AR chooses have a twin whose head row is nearly theirs.

    With `exact` the twins are equal but for less than a unit of bfloat16.
    """
    shutil.copytree(CHECKPOINT, folder)
    file = folder / "model.safetensors"
    tensors = {name: value.float() for name, value in load_file(file).items()}
    (name,) = [name for name in tensors if "lm_head" in name or "diffusion_head" in name]
    head = tensors[name]
    half = len(head) // 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(half, head.shape[1], generator=generator)
    if exact:
        head[:half] = head[:half].bfloat16().float()
        head[half : 2 * half] = head[:half] * (1 + change)
    else:
        head[half : 2 * half] = head[:half] + change * noise * head[:half].std()
    save_file({**tensors, name: head.contiguous()}, file)
    return folder


def test_two_tokens_that_are_one_in_the_dtype_are_a_tie(compiled: Compiled, tmp_path: Path) -> None:
    model = near(tmp_path / "twins", 2.0**-12, exact=True)
    part = parting(
        bisect(
            compiled("linear_ss"),
            model=model,
            count=COUNT,
            loading=LOADING,
            other={"dtype": "bfloat16"},
            generation=OPTIONS,
        )
    )
    assert part.verdict == "tie"
    assert "saw the same tokens" in part.evidence[0]
    assert "one unit in the last place of" in part.evidence[1]
    assert part.first.position == part.second.position


def test_the_same_rows_in_two_dtypes_part_by_arithmetic(compiled: Compiled, tmp_path: Path) -> None:
    model = near(tmp_path / "near", 0.01)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("[39, 59, 35, 68, 81, 58]\n")
    found = bisect(
        compiled("linear_ss"), model=model, prompts=prompts, count=1, loading=LOADING,
        other={"dtype": "bfloat16"}, generation=MORE,
    )  # fmt: skip
    part = parting(found)
    assert found.names == ("linear_ss (float32, cpu)", "linear_ss (bfloat16, cpu)")
    assert part.verdict == "arithmetic"
    assert part.token > 0
    assert part.noise is not None
    assert part.apart is not None
    assert 0 < part.apart < 8 * part.noise
    assert part.first.gap is not None
    assert part.second.gap is not None
    assert part.first.gap + part.second.gap <= 2 * part.apart


def test_the_command_leaves_with_1_where_they_differ_and_0_where_not(
    compiled: Compiled, tmp_path: Path
) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *SEES_AHEAD)
    rest = ["--model", str(CHECKPOINT), "--device", "cpu", "--dtype", "float32", "--count", "2",
            "--max-new-tokens", "8"]  # fmt: skip
    same = CliRunner().invoke(cli, ["bisect", str(compiled("linear_ss")), *rest])
    assert same.exit_code == 0, same.output
    assert "linear_ss and AR: the same tokens (16 tokens of 2 prompts)" in same.output
    apart = CliRunner().invoke(cli, ["bisect", str(wrong), *rest])
    assert apart.exit_code == 1
    assert "wrong and AR part at token" in apart.output
    assert "logic: the two rows did not see the same" in apart.output
    assert re.search(r"\n  AR: token \d+ \(0\.\d{4}, ahead", apart.output)
    told = CliRunner().invoke(cli, ["bisect", str(wrong), *rest, "--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)["parting"]["verdict"] == "logic"


def test_strategies_of_one_artifact_are_held_against_each_other(tmp_path: Path) -> None:
    several = tmp_path / "several"
    api.compile(["linear_ss", "block_diffusion"], several, {"block_length": 4}, certify=False)

    def run(*by: str | None) -> Bisected:
        one, two = by
        return bisect(
            several, model=CHECKPOINT, count=2, loading=LOADING, generation=OPTIONS,
            strategies=(one, two),
        )  # fmt: skip

    assert run(None, None).names == ("several", AR)
    assert run("linear_ss", None).names == ("several by linear_ss", AR)
    apart = run("linear_ss", "block_diffusion")
    assert apart.names == ("several by linear_ss", "several by block_diffusion")
    assert parting(apart).verdict == "logic"
    assert parting(apart).second.forward == "step.filled.seen"
    with pytest.raises(PromptError, match="no strategy 'ar'"):
        run("linear_ss", "ar")


def test_an_artifact_in_two_dtypes_is_run_by_one_strategy(compiled: Compiled) -> None:
    found = bisect(
        compiled("linear_ss"), model=CHECKPOINT, count=1, loading=LOADING, generation=OPTIONS,
        other={"dtype": "float64"}, strategies=("linear_ss", None),
    )  # fmt: skip
    assert [name.partition(" (")[0] for name in found.names] == ["linear_ss by linear_ss"] * 2


def test_tokens_are_told_with_their_texts(compiled: Compiled) -> None:
    found = CliRunner().invoke(
        cli,
        ["bisect", str(compiled("block_diffusion")), "--device", "cpu", "--count", "1",
         "--max-new-tokens", "8"],
    )  # fmt: skip
    assert found.exit_code == 1, found.output
    assert found.stderr.endswith("1 of 1 prompt differs\n")
    assert re.search(r"\n  block_diffusion: token \d+ '.+' \(", found.output)
    assert re.search(r"\n  AR: token \d+ '.+' \(", found.output)


def test_a_token_that_its_logit_does_not_explain_was_sampled_and_it_is_said(
    compiled: Compiled,
) -> None:
    seen = 0
    for seed in range(4):
        hot = {**OPTIONS, "temperature": 3.0, "seed": seed}
        part = parting(
            bisect(
                compiled("ar"), compiled("block_diffusion"), CHECKPOINT, count=COUNT,
                loading=LOADING, generation=hot,
            )
        )  # fmt: skip
        said = [line for line in part.evidence if "sampled its token" in line]
        gaps = [each.gap for each in (part.first, part.second)]
        assert len(said) == sum(gap is not None and gap < 0 for gap in gaps)
        assert all(float(line.split("ahead by ")[1].partition(",")[0]) > 0 for line in said)
        seen += len(said)
    assert seen


def test_a_node_with_a_temperature_of_its_own_is_not_told_by_the_noise_of_the_request(
    compiled: Compiled, tmp_path: Path
) -> None:
    wrong = mutated(compiled("linear_ss"), tmp_path / "wrong", *CHOOSES_AT_RANDOM)
    part = parting(
        bisect(
            wrong, model=CHECKPOINT, count=8, loading=LOADING,
            generation={**OPTIONS, "temperature": 0.01},
        )
    )  # fmt: skip
    assert part.first.gap is not None
    assert part.first.gap < 0
    assert part.evidence[-1] == (
        "wrong sampled its token: the gap is of logits without the noise of sampling"
    )


@pytest.mark.parametrize("columns", [None, 40])
def test_what_is_told_of_a_parting_fits_the_terminal(
    columns: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing, "width_of", lambda _: columns)
    chooser = Chooser(
        7, "  a  b ", 3, "step.choice", "line 18 of linear_ss.yaml", "step.checked", 4, 99,
        4.84e-5, -2.5,
    )  # fmt: skip
    evidence = (
        "the two rows saw the same tokens at the same positions",
        "  deeper, and more of it",
    )
    where = Parting(0, 1, (1, 2), chooser, chooser, "logic", evidence, None, None)
    for line in tracing._bisected_lines(Bisected(("one", "two"), 1, 2, 1, where)):
        tracing._write_wrapped(line)
    lines = capsys.readouterr().out.splitlines()
    assert sum("(4.8e-05," in line for line in lines) == 2
    assert sum("'  a  b '" in line for line in lines) == 2
    assert (max(map(len, lines)) <= 40) is (columns is not None)
