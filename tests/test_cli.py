"""The command line: what users type, what they read, and the exit code they get."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.cli import cli
from nldc.cli.group import INTERNAL, INTERRUPTED
from nldc.errors import REGISTRY
from nldc.reuse import flat, load
from nldc.runtime.errors import NldcRuntimeError

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden_checkpoints" / "random-0"
BAD = "nldc: 1\nname: bad\nsumary: x\n"


def nldc(*arguments: str | Path, input: str | None = None) -> Result:  # noqa: A002
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    for name in ("ar", "linear_ss", "block_diffusion"):
        result = nldc("compile", name, "-o", folder / name, *_small(name))
        assert result.exit_code == 0, result.output
    return folder


def _small(name: str) -> tuple[str, ...]:
    return () if name == "ar" else ("--set", "block_length=4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with a tokenizer whose words are w0, w1, …"""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path_factory.mktemp("models") / "random"
    shutil.copytree(GOLDEN, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    words = Tokenizer(WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return folder


def test_memory_for_keys_and_values_is_bounded_by_an_option(artifacts: Path, model: Path) -> None:
    ids = ("--ids", "1,2,3", "--max-new-tokens", "4", "--model", model)
    enough = nldc("run", artifacts / "ar", *ids, "--kv-memory", "16MiB")
    assert enough.exit_code == 0, enough.output
    small = nldc("run", artifacts / "ar", *ids, "--kv-memory", "1KiB")
    assert small.exit_code != 0
    assert "bytes" in small.output
    wrong = nldc("run", artifacts / "ar", *ids, "--kv-memory", "much")
    assert wrong.exit_code != 0
    assert "512MiB" in wrong.output


# check


def test_check_names_the_strategy_and_its_guarantee() -> None:
    result = nldc("check", "ar", ROOT / "strategies" / "linear_ss.yaml")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "ar: ar is fine; guarantee: exact (proved)"
    assert result.stdout.splitlines()[1].endswith(
        "linear_ss is fine; guarantee: exact (proved), for block_length = 16"
    )


def test_check_shows_all_mistakes_of_all_files_and_fails(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(BAD)
    second.write_text("a: [\n")
    result = nldc("check", first, "ar", second)
    assert result.exit_code == 1
    assert "ar: ar is fine" in result.stdout
    assert "did you mean `summary`?" in result.stderr
    assert f"--> {second}:" in result.stderr
    assert "tells more" in result.stderr


def test_check_as_lines_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    lines = nldc("check", path, "--format", "line")
    assert lines.exit_code == 1
    assert f"{path}:3:1: error[NLD010]: a strategy has no key `sumary`" in lines.stdout
    found = json.loads(nldc("check", path, "--format", "json").stdout)
    assert len(found) == len(lines.stdout.splitlines())
    assert json.loads(nldc("check", "ar", "--format", "json").stdout) == []


def test_check_prints_warnings_and_succeeds() -> None:
    case = ROOT / "tests" / "diagnostics" / "NLD033_unused_node" / "bad.yaml"
    result = nldc("check", case)
    assert result.exit_code == 0
    assert "warning[NLD033]" in result.stderr


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("block_length=4", 0, ""),
        ("block_length=1000", 1, "NLD016"),
        ("blok_length=4", 1, "did you mean"),
        ("block_length", 2, "not of the form name=value"),
        ("block_length=x", 2, "'x' is not a number"),
    ],
)
def test_settings_are_checked(setting: str, code: int, message: str) -> None:
    result = nldc("check", "linear_ss", "--set", setting)
    assert result.exit_code == code
    assert message in result.stderr


# compile


def test_a_misspelt_strategy_of_the_library_is_recognised() -> None:
    result = nldc("check", "linear_s")
    assert result.exit_code == 1
    assert "there is no file `linear_s`, and no such strategy in the library" in result.output
    assert "did you mean `linear_ss`?" in result.output


def test_a_name_that_is_like_no_strategy_is_told_where_they_are_listed() -> None:
    result = nldc("check", "nope")
    assert "there is no file `nope`, and no such strategy in the library" in result.output
    assert "help: `nldc strategies` lists them" in result.output
    assert "cannot read `nope.yaml`: no such file" in nldc("check", "nope.yaml").output


def test_a_folder_does_not_hide_a_strategy_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ar").mkdir()
    monkeypatch.chdir(tmp_path)
    result = nldc("check", "ar")
    assert (result.exit_code, result.output) == (
        0,
        "ar: ar is fine; guarantee: exact (proved)\n",
    )


def test_compile_writes_a_folder_that_loads(artifacts: Path) -> None:
    from nldc import api

    assert api.load(artifacts / "linear_ss").STRATEGY == "linear_ss"


def test_compile_of_a_bad_file_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    result = nldc("compile", path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


STAGES = {
    "graph": ("strategy linear_ss", "step.kept: Accepted[<=4] = accept"),
    "program": ("program linear_ss", "kept = accept", "costs: forwards 2 (8 rows)"),
    "python": ("# decode.py", "class Decoder(BaseDecoder):", "# patterns.py", "CAUSAL = Pattern("),
    "kernels": ("# kernel_", "@triton.jit", "return k_row <= q_row"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_compile_prints_a_stage_and_writes_nothing(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = nldc("compile", "linear_ss", *_small("linear_ss"), "--emit", stage)
    assert (result.exit_code, result.stderr) == (0, "")
    for text in STAGES[stage]:
        assert text in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ar", "--emit", "program", "-o", "out"), "leave -o out"),
        (("ar", "--emit", "program", "--target", "cuda:90"), "leave --target out"),
        (("ar", "linear_ss", "--emit", "graph"), "--emit prints one strategy, not 2"),
        (("ar", "--emit", "tokens"), "'tokens' is not one of"),
        (("ar",), "Missing option '-o' / '--out', or '--emit'"),
    ],
)
def test_compile_says_what_emit_does_not_go_with(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = nldc("compile", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_stage_of_a_bad_file_is_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    result = nldc("compile", path, "--emit", "program")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean `summary`?" in result.stderr


# run


def test_run_streams_text_to_stdout_and_numbers_to_stderr(artifacts: Path, model: Path) -> None:
    options = ("--model", model, "--max-new-tokens", "8")
    ar = nldc("run", artifacts / "ar", *options, "--prompt", "w1 w2 w3")
    spec = nldc("run", artifacts / "linear_ss", *options, "--prompt", "w1 w2 w3")
    assert (ar.exit_code, spec.exit_code) == (0, 0)
    assert ar.stdout == spec.stdout
    assert len(ar.stdout.split()) == 8


def test_run_prints_what_it_cost(artifacts: Path) -> None:
    result = nldc(
        "run", artifacts / "linear_ss", "--model", GOLDEN, "--ids", "1,2,3", "--max-new-tokens", "8"
    )
    assert result.exit_code == 0
    assert len(result.stdout.split(",")) == 8
    assert "tokens a forward" in result.stderr
    assert "tokens a cycle" in result.stderr
    quiet = nldc(
        "run", artifacts / "linear_ss", "--model", GOLDEN, "--ids", "1 2", "--max-new-tokens", "4",
        "--quiet",
    )  # fmt: skip
    assert quiet.stderr == ""


def test_run_lists_log_probabilities_behind_the_text(artifacts: Path, model: Path) -> None:
    options = ("--model", model, "--max-new-tokens", "3", "--quiet")
    listed = []
    for name in ("ar", "linear_ss"):
        asked = nldc(
            "run", artifacts / name, *options, "--prompt", "w1 w2 w3", "--logprobs", "2"
        ).stdout.splitlines()
        plain = nldc("run", artifacts / name, *options, "--prompt", "w1 w2 w3").stdout
        assert asked[0] == plain.strip()
        assert asked[2].split() == ["token", "logprob", "likeliest"]
        assert len(asked) == 6
        for word, line in zip(plain.split(), asked[3:], strict=True):
            token, text, logprob, *best = line.split()
            assert (text, f"w{token}") == (f"'{word}'", word)
            assert best[:3] == [token, text, f"{logprob},"]
            assert float(best[5]) <= float(logprob) < 0
        listed.append(asked)
    assert listed[0] == listed[1]
    ids = nldc("run", artifacts / "ar", "--model", GOLDEN, "--ids", "1,2", "--logprobs", "0",
               "--max-new-tokens", "2")  # fmt: skip
    assert ids.stdout.splitlines()[2].split() == ["token", "logprob"]
    assert [line.split()[0] for line in ids.stdout.splitlines()[3:]] == ids.stdout.split("\n")[
        0
    ].split(",")
    refused = nldc("run", artifacts / "ar", "--prompt", "w1", "--logprobs", "21")
    assert "logprobs 21 is not allowed" in refused.stderr


def test_run_reads_a_file_or_stdin(artifacts: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("w1 w2 w3")
    options = ("--model", model, "--max-new-tokens", "4", "--quiet")
    from_file = nldc("run", artifacts / "ar", *options, "--file", path)
    from_stdin = nldc("run", artifacts / "ar", *options, "--file", "-", input="w1 w2 w3")
    assert from_file.exit_code == 0
    assert from_file.stdout == from_stdin.stdout
    missing = nldc("run", artifacts / "ar", *options, "--file", tmp_path / "no.txt")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: cannot read")


def test_run_brings_params_of_the_strategy(artifacts: Path) -> None:
    way = ("run", artifacts / "block_diffusion", "--prompt", "import ", "--max-new-tokens", "12")
    found = nldc(*way, "--param", "threshold=0.0", "--quiet")
    assert found.exit_code == 0, found.output
    decoder = api.load(artifacts / "block_diffusion").from_checkpoint(device="cpu")
    wanted = decoder.generate("import ", max_new_tokens=12, params={"threshold": 0.0})
    assert found.stdout.strip() == wanted.text[0].strip()
    refused = nldc(*way, "--param", "treshold=0.5")
    assert refused.exit_code == 1
    assert "did you mean threshold" in refused.output
    refused = nldc(*way, "--param", "threshold=2")
    assert "use a number from 0.0 to 1.0; the default is 0.9" in refused.output
    refused = nldc(*way, "--param", "threshold=1", "--param", "threshold=0")
    assert refused.exit_code == 2
    assert "--param threshold is given twice" in refused.output


def test_bench_and_verify_bring_params_where_a_strategy_has_them(artifacts: Path) -> None:
    few = ("--count", "1", "--max-new-tokens", "8")
    found = nldc("bench", "block_diffusion", *few, "--repeats", "1", "--param", "threshold=0.0")
    assert found.exit_code == 0, found.output
    refused = nldc("bench", "linear_ss", *few, "--param", "threshold=0.0")
    assert refused.exit_code == 1
    assert "no strategy here leaves a param threshold to requests" in refused.output
    found = nldc("verify", artifacts / "block_diffusion", *few, "--param", "threshold=1.0")
    assert "threshold" not in found.output


def test_run_takes_exactly_one_prompt(artifacts: Path) -> None:
    assert nldc("run", artifacts / "ar").exit_code == 2
    both = nldc("run", artifacts / "ar", "--prompt", "a", "--ids", "1")
    assert both.exit_code == 2
    assert "give one of --prompt, --chat, --file and --ids" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ids", "1,x"), "'1,x' is no list of token ids"),
        (("--ids", "99999"), "holds the token id 99999"),
        (("--ids", "1", "--temperature", "-1"), "temperature"),
        (("--ids", "1", "--adapter", "/nowhere"), "uses no adapter"),
        (("--prompt", "text"), "tokenizer.json is missing"),
    ],
)
def test_what_the_runtime_refuses_is_an_error_with_help(
    artifacts: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = nldc("run", artifacts / "ar", "--model", GOLDEN, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "\nhelp: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_is_no_artifact_is_an_error(tmp_path: Path) -> None:
    result = nldc("run", tmp_path, "--ids", "1")
    assert result.exit_code == 1
    assert "holds no artifact" in result.stderr


# verify and bench


def test_verify_says_that_the_tokens_are_the_same(artifacts: Path) -> None:
    result = nldc(
        "verify", artifacts / "linear_ss", "--model", GOLDEN, "--count", "3",
        "--max-new-tokens", "10", "--batch", "2", "--temperature", "0.8",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout.startswith("linear_ss: the same tokens as AR (")


def test_verify_shows_the_first_difference_and_fails(artifacts: Path, model: Path) -> None:
    result = nldc(
        "verify", artifacts / "block_diffusion", "--model", model, "--count", "2",
        "--max-new-tokens", "12",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "AR has" in result.stdout
    assert "artifact:" in result.stdout
    assert "prompts differ" in result.stdout


def test_certify_runs_an_artifact_without_a_model(artifacts: Path) -> None:
    result = nldc("certify", artifacts / "linear_ss", "--tokens", "12")
    assert result.exit_code == 0
    assert result.stdout.endswith("every token and every cache entry is AR's; guarantee: exact\n")
    inexact = nldc("certify", artifacts / "block_diffusion", "--tokens", "12")
    assert inexact.exit_code == 0
    assert "differs from AR, as it may" in inexact.stdout


def test_bench_prints_a_line_for_each_strategy_beside_ar() -> None:
    options = ("--model", GOLDEN, "--count", "1", "--max-new-tokens", "6", "--repeats", "1")
    result = nldc("bench", "linear_ss", "linear_ss_lora", *options, "--set", "block_length=4")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "strategy",
        "ar",
        "linear_ss",
        "linear_ss_lora",
    ]
    assert all(line.endswith("100 %") for line in lines[1:4])
    assert "torch" in lines[-1]
    found = json.loads(nldc("bench", "linear_ss", *options, "--json").stdout)
    assert [row["strategy"] for row in found["results"]] == ["ar", "linear_ss"]


def test_bench_runs_a_grid_and_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    options = ("--model", GOLDEN, "--count", "1", "--max-new-tokens", "6", "--repeats", "2")
    grid = ("--grid", "block_length=3,4")
    result = nldc("bench", "linear_ss", *options, *grid, "--json", "--html", page,
                  "--predict", "h100")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["format"] == 1
    names = ["ar", "linear_ss block_length=3", "linear_ss block_length=4"]
    assert [row["name"] for row in found["results"]] == names
    assert [len(row["times"]) for row in found["results"]] == [2, 2, 2]
    assert set(found["results"][1]["observed"]["accepted"]) <= {"1", "2", "3"}
    assert found["predicted"]["device"]
    assert all(name in page.read_text("utf-8") for name in names)
    assert "bench.html: 3 runs" in result.stderr


def test_bench_names_both_figures_of_acceptance() -> None:
    options = ("--model", GOLDEN, "--count", "1", "--max-new-tokens", "6", "--repeats", "1")
    lines = nldc("bench", "linear_ss", *options, "--set", "block_length=4").stdout.splitlines()
    heading = next(line for line in lines if "TPF" in line)
    for name in ("TPF with prefill", "TPF without prefill", "acceptance length"):
        assert name in heading
    ar = lines[lines.index(heading) + 1].split()
    assert ar == ["ar", "1.00", "1.00", "none", "1.00"]


def test_bench_tells_figures_of_each_category(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(
        '{"category": "code", "prompt": [1, 2]}\n{"category": "math", "prompt": [3]}\n', "utf-8"
    )
    options = ("--model", GOLDEN, "--max-new-tokens", "6", "--repeats", "1", "--prompts", path)
    result = nldc("bench", "linear_ss", *options, "--set", "block_length=4")
    assert result.exit_code == 0, result.stderr
    words = [line.split()[:3] for line in result.stdout.splitlines()]
    for name in ("ar", "linear_ss"):
        assert [name, "code", "1"] in words
        assert [name, "math", "1"] in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "block_length=four"), "is not of the form name=4..32, 4..32:4 or 4,8,16"),
        (("--grid", "block_length=4", "--grid", "block_length=8"), "block_length is given twice"),
        (("--grid", "block_length=4", "--set", "block_length=8"), "both give block_length"),
        (("--grid", "blok_length=4"), "did you mean `block_length`?"),
        (("--set", "blok_length=4"), "did you mean `block_length`?"),
        (("--grid", "block_length=4,400"), "400"),
        (("--html", "/nowhere/at/all.html"), "cannot be written: no such file or directory"),
        (("--html", "/"), "is no plain file"),
        (("--html", ""), "no file is named"),
    ],
)
def test_bench_refuses_what_it_cannot_run_before_it_runs(
    arguments: tuple[str, ...], message: str
) -> None:
    result = nldc("bench", "linear_ss", "--model", GOLDEN, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "tokens/s" not in result.stdout


# several strategies in one artifact


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "all"
    result = nldc(
        "compile", "linear_ss", "ar", "block_diffusion", "-o", out, "--set", "block_length=4"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    counts = [line.split(":")[0] for line in lines[1:4]]
    assert counts == ["linear_ss", "ar", "block_diffusion"]
    assert lines[4] == "between steps a sequence may go on with another strategy:"
    assert lines[5].split() == ["linear_ss", "->", "ar,", "block_diffusion"]
    return out


def test_an_artifact_of_several_runs_the_one_that_is_named(several: Path, model: Path) -> None:
    def ran(*more: str) -> Result:
        options = ("--model", model, "--ids", "1,2", "--max-new-tokens", "9")
        return nldc("run", several, *options, *more)

    default, named = ran(), ran("--strategy", "linear_ss")
    assert default.stdout == named.stdout
    assert "9 tokens in 9 forwards" in ran("--strategy", "ar").stderr
    assert ran("--strategy", "ar").stdout == default.stdout
    assert ran("--strategy", "ar:4,linear_ss").stdout == default.stdout
    assert ran("--strategy", "block_diffusion:4,ar").exit_code == 0
    wrong = ran("--strategy", "beam")
    assert wrong.exit_code == 1
    assert "the artifact has no strategy 'beam'" in wrong.stderr
    assert "it has `linear_ss`, `ar`, `block_diffusion`" in wrong.stderr
    part = nldc("run", several / "ar", "--model", model, "--ids", "1,2", "--max-new-tokens", "9")
    assert part.stdout == default.stdout


def test_several_are_verified_each_and_in_turn(several: Path) -> None:
    options = ("--model", GOLDEN, "--count", "2", "--max-new-tokens", "8")
    result = nldc("verify", several, *options)
    assert result.exit_code == 0, result.output
    names = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert names == ["linear_ss", "ar", "linear_ss, ar in turn"]
    assert nldc("verify", several, *options, "--strategy", "block_diffusion").exit_code == 1


def test_several_are_certified_each_and_in_turn(several: Path) -> None:
    result = nldc("certify", several, "--tokens", "10")
    assert result.exit_code == 0, result.output
    assert "linear_ss+ar+block_diffusion: " in result.stdout
    assert "every switch goes on from the text" in result.stdout


def test_mistakes_in_several_files_are_reported_together(tmp_path: Path) -> None:
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text(BAD, encoding="utf-8")
    worse.write_text("nldc: 2\n", encoding="utf-8")
    result = nldc("compile", bad, "ar", worse, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.yaml" in result.stderr
    assert "worse.yaml" in result.stderr
    assert not (tmp_path / "out").exists()


def test_two_strategies_of_one_name_do_not_go_into_one_artifact(tmp_path: Path) -> None:
    result = nldc("compile", "ar", "ar", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "two of the strategies are named `ar`" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_setting_goes_to_every_file_that_has_the_param(tmp_path: Path) -> None:
    out = tmp_path / "out"
    nldc("compile", "linear_ss", "ar", "quadratic_ss", "-o", out, "--set", "block_length=5")
    for name in ("linear_ss", "quadratic_ss"):
        manifest = json.loads((out / name / "manifest.json").read_text("utf-8"))
        assert manifest["params"] == {"block_length": 5}
    unknown = nldc("compile", "linear_ss", "ar", "-o", tmp_path / "no", "--set", "blok_length=5")
    assert unknown.exit_code == 1
    assert "did you mean `block_length`?" in unknown.stderr


def test_an_edit_in_a_part_of_several_is_found_out(several: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(several, copy)
    with (copy / "ar" / "decode.py").open("a", encoding="utf-8") as file:
        file.write("\n")
    result = nldc("run", copy, "--ids", "1")
    assert result.exit_code == 1
    assert "edited by hand" in result.stderr


# explain, strategies, schema, doctor


@pytest.mark.parametrize("code", REGISTRY)
def test_explain_prints_the_page_of_every_code(code: str) -> None:
    result = nldc("explain", code.lower())
    assert result.exit_code == 0
    assert result.stdout.startswith(f"# {code}: ")


def test_explain_refuses_a_code_that_does_not_exist() -> None:
    result = nldc("explain", "NLD999")
    assert result.exit_code == 2
    assert "NLD999 is no error code" in result.stderr
    assert result.stderr.count("NLD") == 2


def test_explain_names_the_code_that_was_meant() -> None:
    assert "NLD031 is" in " ".join(nldc("explain", "nld31").stderr.split())


def test_explain_draws_which_rows_see_which() -> None:
    result = nldc("explain", "linear_ss", "--set", "block_length=3", "--full")
    assert result.exit_code == 0
    assert result.stdout.endswith(
        "step.checked: 3 rows, attention causal\n"
        "               prefix\n"
        "  row 0 at +0  ■ ■··\n"
        "  row 1 at +1  ■ ■■·\n"
        "  row 2 at +2  ■ ■■■\n"
    )


@pytest.mark.parametrize("width", ["40", "72", "200"])
def test_the_help_lists_each_command_with_its_whole_first_sentence(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    words = " ".join(nldc("--help").stdout.split())
    assert "..." not in words.replace("[ARGS]...", "")
    for name, command in cli.commands.items():
        sentence = " ".join((command.help or "").split("\n\n")[0].split()).split(". ")[0]
        assert f"{name} {sentence.rstrip('.')}" in words


def test_strategies_lists_the_library_with_guarantees() -> None:
    result = nldc("strategies")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names[0] == "name"
    assert names[1:] == sorted(path.stem for path in (ROOT / "strategies").glob("*.yaml"))


def test_schema_is_json() -> None:
    schema = json.loads(nldc("schema").stdout)
    assert {each["$ref"].rsplit("/", 1)[1] for each in schema["anyOf"]} == {
        "Strategy",
        "Variant",
        "FragmentFile",
    }


def test_doctor_finds_everything_that_is_needed_here() -> None:
    result = nldc("doctor")
    assert result.exit_code == 0
    names = [line[4:].split("  ")[0] for line in result.stdout.splitlines()]
    assert {"nldc", "python", "torch", "triton", "demo model"} <= set(names)


@pytest.mark.parametrize("why", [None, "numba is not installed"])
def test_doctor_says_whether_there_are_kernels_for_this_cpu(
    why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldc.runtime.cpu.available.why_not", lambda: why)
    monkeypatch.setattr("nldc.runtime.loading.why_not", lambda: why)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = nldc("doctor").stdout.splitlines()
    (numba,) = (line for line in lines if line[4:].startswith("numba "))
    (backend,) = (line for line in lines if line[4:].startswith("backend "))
    if why is None:
        assert "torch, and numba, whole layers in kernels, for weights of 8 and 4 bits" in backend
    else:
        assert numba.startswith("no ")
        assert why in numba
        assert backend.endswith(f"torch: {why}")


def test_import_gguf_of_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"no model")
    result = nldc("import-gguf", path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


# Whatever happens


def test_a_bug_of_ours_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("lost")

    monkeypatch.setattr("nldc.doctor.examine", broken)
    result = nldc("doctor")
    assert result.exit_code == INTERNAL
    assert "Please report" in result.stderr


def test_messages_cannot_send_escapes_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NldcRuntimeError("odd \x1b[2J name", "try \x07 again")

    monkeypatch.setattr("nldc.doctor.examine", refuse)
    assert nldc("doctor").stderr == "error: odd \\x1b[2J name\nhelp: try \\x07 again\n"


def test_an_interrupt_that_a_library_wraps_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("half a module") from None

    monkeypatch.setattr(cli.commands["schema"], "callback", interrupted)
    result = nldc("schema")
    assert (result.exit_code, result.output.strip()) == (130, "interrupted")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_no_bug_of_ours() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "nldc.cli", "schema"]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert found.returncode == 1
    assert found.stderr.decode() == "error: no space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("line", [("check", "ar", "--json"), ("--help",)])
def test_a_full_disk_is_one_line_whatever_was_being_written(line: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "nldc.cli", *line]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, cwd=ROOT)
    assert (found.returncode, found.stderr.decode()) == (1, "error: no space left on device\n")


def closing(streams: str, *line: str) -> subprocess.CompletedProcess[str]:
    """Run a command with what `streams` closes or fills, in the shell's words."""
    command = ["sh", "-c", f'"$@" {streams}', "sh", sys.executable, "-m", "nldc.cli", *line]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("line", [("check", "ar"), ("check", "ar", "--json"), ("--help",)])
def test_a_closed_standard_output_is_one_line(line: tuple[str, ...]) -> None:
    found = closing(">&-", *line)
    assert (found.returncode, found.stderr) == (1, "error: standard output is closed\n")


def test_a_closed_standard_error_takes_nothing_from_the_exit_code_or_the_results() -> None:
    assert closing("2>&-", "check", "no_such_file").returncode == 1
    assert closing("2>&-", "check", "--no-such-option").returncode == 2
    fine = closing("2>&-", "check", "ar")
    assert (fine.returncode, fine.stdout) == (0, "ar: ar is fine; guarantee: exact (proved)\n")
    assert closing(">&- 2>&-", "check", "ar").returncode == 1


def test_a_prompt_in_another_encoding_is_an_error(artifacts: Path, model: Path) -> None:
    result = nldc("run", artifacts / "ar", "--model", model, "--prompt", "\udcff")
    assert result.exit_code == 1
    assert "the prompt is not UTF-8 text" in result.output


def test_an_interrupt_ends_without_a_traceback() -> None:
    code = (
        # A shell that started us in the background has told us to ignore interrupts.
        "import nldc.api, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "nldc.api.check = lambda *a, **k: (print('ready', flush=True), time.sleep(60))\n"
        "from nldc.cli import cli; cli(['check', 'x'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert errors.strip() == "interrupted"


def test_a_closed_pipe_ends_without_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nldc.cli", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=20)


# chat, ends and markers

CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{{ 'w5' if enable_thinking else 'w6' }}{% if tools %} w{{ tools | length }}{% endif %}"
)


@pytest.fixture(scope="module")
def talker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with a chat template, and with w7 as a special token."""
    folder = tmp_path_factory.mktemp("models") / "talker"
    shutil.copytree(model, folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"] = [
        {"id": 7, "content": "w7", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    ]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def answer(artifacts: Path, talker: Path, *options: str | Path, **more: str) -> str:
    arguments = ("--model", talker, "--max-new-tokens", "8", "--quiet", *options)
    result = nldc("run", artifacts / "ar", *arguments, **more)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_answers_a_message_or_a_conversation(
    artifacts: Path, talker: Path, tmp_path: Path
) -> None:
    want = answer(artifacts, talker, "--prompt", "system w3 user w1 w6")
    message = [{"role": "user", "content": "w1"}]
    both = [{"role": "system", "content": "w3"}, *message]
    assert answer(artifacts, talker, "--chat", "w1", "--system", "w3") == want
    path = tmp_path / "talk.json"
    for text in (
        json.dumps(both),
        json.dumps({"messages": both}),
        "\n".join(map(json.dumps, both)) + "\n",
    ):
        path.write_text(text)
        assert answer(artifacts, talker, "--messages", path) == want
        assert answer(artifacts, talker, "--messages", "-", input=text) == want
    path.write_text(json.dumps(message[0]))
    assert answer(artifacts, talker, "--messages", path, "--system", "w3") == want


def test_run_gives_the_template_variables_tools_and_another_template(
    artifacts: Path, talker: Path, tmp_path: Path
) -> None:
    chat = ("--chat", "w1")
    variable = answer(artifacts, talker, *chat, "--template-var", "enable_thinking=true")
    assert variable == answer(artifacts, talker, "--prompt", "user w1 w5")
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "a"}, {"name": "b"}]')
    found = answer(artifacts, talker, *chat, "--tools", tools)
    assert found == answer(artifacts, talker, "--prompt", "user w1 w6 w2")
    own = tmp_path / "own.jinja"
    own.write_text("w9 {{ messages[0].content }}")
    found = answer(artifacts, talker, *chat, "--chat-template", own)
    assert found == answer(artifacts, talker, "--prompt", "w9 w1")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--prompt", "a", "--system", "x"), 2, "--system is for conversations: give --chat or"),
        (("--ids", "1", "--template-var", "a=1"), 2, "--template-var is for conversations"),
        (("--chat", "w1", "--template-var", "a"), 2, "'a' is not of the form name=value"),
        (("--chat", "w1", "--template-var", "a=True"), 2, "write a=true"),
        (("--chat", "w1", "--template-var", "a=[1"), 2, "'[1' is not JSON"),
        (("--chat", "w1", "--template-var", "a=1", "--template-var", "a=2"), 2, "a is given twice"),
        (("--chat", "w1", "--template-var", "enable_thinkin=true"), 1,
         "did you mean `enable_thinking`?"),
        (("--chat", "w1", "--tools", "/nowhere"), 1, "cannot read /nowhere"),
        (("--chat", "w1", "--chat-template", "nowhere"), 1, "no chat template `nowhere`"),
        (("--messages", "/nowhere"), 1, "cannot read /nowhere"),
        (("--ids", "1", "--keep-special-tokens"), 2, "--keep-special-tokens is for text"),
        (("--prompt", "w1", "--eos", "no token"), 1, "eos holds 'no token', which is no token"),
        (("--prompt", "w1", "--eos", "99999"), 1, "eos holds the token id 99999"),
        (("--prompt", "w1", "--start-think-token-id", "3"), 1, "has no effect without"),
    ],
)  # fmt: skip
def test_an_option_of_text_that_cannot_be_used_is_named(
    artifacts: Path, talker: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    result = nldc("run", artifacts / "ar", "--model", talker, *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("--messages", "{}", "holds no conversation"),
        ("--messages", "", "holds no conversation"),
        ("--messages", '{"role": "user"}\nx', ":2 is no message"),
        ("--messages", '["a"]', "holds no conversation"),
        ("--tools", "[", "cannot be read as JSON"),
        ("--tools", '{"a": 1}', "holds no list of tools"),
    ],
)
def test_a_file_of_messages_or_tools_that_is_none_is_named(
    artifacts: Path, talker: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / "given.json"
    path.write_text(text)
    chat = () if name == "--messages" else ("--chat", "w1")
    result = nldc("run", artifacts / "ar", "--model", talker, *chat, name, path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert str(path) in result.stderr
    assert message in result.stderr


def test_run_ends_where_it_is_told_and_shows_markers_on_request(
    artifacts: Path, talker: Path, tmp_path: Path
) -> None:
    talker = Path(shutil.copytree(talker, tmp_path / "talker"))
    words = answer(artifacts, talker, "--prompt", "w1 w2", "--max-new-tokens", "16").split()
    third = words[3]
    for end in (third, third.removeprefix("w")):
        found = answer(artifacts, talker, "--prompt", "w1 w2", "--eos", end).split()
        assert found == words[: words.index(third) + 1]
    data = json.loads((talker / "tokenizer.json").read_text())
    data["added_tokens"] += [{**data["added_tokens"][0], "id": int(third[1:]), "content": third}]
    (talker / "tokenizer.json").write_text(json.dumps(data))
    hidden = answer(artifacts, talker, "--prompt", "w1 w2").split()
    shown = answer(artifacts, talker, "--prompt", "w1 w2", "--keep-special-tokens").split()
    assert third not in hidden
    assert third in shown
    cut = answer(artifacts, talker, "--prompt", "w1 w2", "--stop", third).split()
    assert cut == [word for word in shown[: shown.index(third)] if word not in ("w7", third)]


def test_verify_and_bench_take_conversations(artifacts: Path, talker: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "w1"}]}\nw2 w3\n')
    options = ("--model", talker, "--prompts", path, "--count", "2", "--max-new-tokens", "6")
    chat = (*options, "--chat", "--template-var", "enable_thinking=true", "--eos", "w3")
    verified = nldc("verify", artifacts / "linear_ss", *chat)
    assert verified.exit_code == 0, verified.output
    assert "the same tokens as AR" in verified.stdout
    timed = nldc("bench", "linear_ss", *chat, "--repeats", "1", "--set", "block_length=4")
    assert timed.exit_code == 0, timed.output
    plain = nldc("verify", artifacts / "linear_ss", *options)
    assert plain.exit_code == 1
    assert f"{path}:1 is a conversation" in plain.stderr
    lonely = nldc("bench", "linear_ss", *options, "--system", "w3")
    assert lonely.exit_code == 2
    assert "--system is for conversations: give --chat as well" in lonely.stderr


# what a checkpoint brings


def test_compile_takes_the_checkpoint_s_block_size_and_run_says_when_another_was_compiled(
    model: Path, tmp_path: Path
) -> None:
    options = ("--model", model, "--ids", "1,2", "--max-new-tokens", "3")
    result = nldc("compile", "linear_ss", "-o", tmp_path / "own", "--model", model)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["params"] == {"block_length": 32}
    assert "note:" not in nldc("run", tmp_path / "own", *options).stderr
    assert nldc("compile", "linear_ss", "-o", tmp_path / "plain").exit_code == 0
    said = nldc("run", tmp_path / "plain", *options).stderr
    assert (
        said.count("note: compiled with block_length = 16, the checkpoint has block_size 32") == 1
    )
    assert nldc("run", tmp_path / "plain", *options, "--quiet").stderr == ""


def test_every_command_says_that_no_drafter_ran_and_run_says_which_did(
    model: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("linear_spec_lora"))
    artifact, line = tmp_path / "lora", "note: no drafter adapter: drafting with base weights"
    assert nldc("compile", "linear_ss_lora", "-o", artifact, "--model", bare).exit_code == 0
    short = ("--count", "1", "--max-new-tokens", "4")
    run = ("run", artifact, "--ids", "1,2", "--max-new-tokens", "4", "--model")
    for arguments in (
        (*run, bare),
        (*run, model, "--adapter", "none"),
        (*run, model, "--adapter", "drafter=none"),
        ("verify", artifact, "--model", bare, *short),
        ("bench", "linear_ss_lora", "--model", bare, "--repeats", "1", *short),
    ):
        result = nldc(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr.count(line) == 1
    with_it = nldc(*run, model)
    assert "note:" not in with_it.stderr
    assert "with the adapter drafter" in with_it.stderr
    named = nldc(*run, bare, "--adapter", f"drafter={model / 'linear_spec_lora'}")
    assert "with the adapter drafter" in named.stderr
    (_, line_) = json.loads(
        nldc("bench", "linear_ss_lora", "--model", model, "--repeats", "1", *short, "--json").stdout
    )["results"]
    assert line_["adapters"] == ["drafter"]
    bench = nldc("bench", "linear_ss_lora", "--model", model, "--repeats", "1", *short).stdout
    assert "linear_ss_lora with drafter" in bench
    assert "with the adapter drafter" in nldc("verify", artifact, "--model", model, *short).stderr
    sol = nldc("sol", "linear_ss_lora", "--model", model, "--block-length", "4", *short).stdout
    assert "linear_ss_lora with drafter" in sol


@pytest.mark.parametrize("command", ["bench", "sol"])
def test_an_adapter_that_no_strategy_of_several_declares_is_refused(
    command: str, model: Path, tmp_path: Path
) -> None:
    wrong = ("--model", model, "--adapter", f"drafte={tmp_path}")
    result = nldc(command, "linear_ss", "linear_ss_lora", *wrong)
    assert result.exit_code == 1
    assert "none of the strategies declares an adapter `drafte`" in result.stderr
    assert "they declare `drafter`" in result.stderr


def test_every_command_refuses_to_decode_without_an_adapter_that_is_required(
    model: Path, tmp_path: Path
) -> None:
    text = flat(load(ROOT / "strategies" / "linear_ss_lora.yaml"))
    file, artifact = tmp_path / "must.yaml", tmp_path / "must"
    assert "optional: true" in text
    file.write_text(text.replace("optional: true", "optional: false"), encoding="utf-8")
    assert nldc("compile", file, "-o", artifact, *_small("linear_ss_lora")).exit_code == 0
    without = ("--model", model, "--adapter", "none")
    for arguments in (
        ("run", artifact, "--ids", "1,2", *without),
        ("verify", artifact, *without),
        ("bench", file, *without),
        ("sol", file, "--block-length", "4", *without),
    ):
        result = nldc(*arguments)
        assert result.exit_code == 1, result.output
        assert "the strategy `linear_ss_lora` needs the adapter `drafter`" in result.stderr
        assert "give its folder, or put it into the checkpoint as linear_spec_lora" in result.stderr


def test_adapters_without_names_or_that_nobody_declares_are_refused(
    model: Path, artifacts: Path, tmp_path: Path
) -> None:
    run = ("run", artifacts / "linear_ss", "--model", model, "--ids", "1")
    two = nldc(*run, "--adapter", "a", "--adapter", "b")
    assert two.exit_code == 2
    assert "--adapter NAME=FOLDER" in two.stderr
    named = nldc(*run, "--adapter", f"drafter={tmp_path}")
    assert named.exit_code == 1
    assert "declares no adapter `drafter`" in named.stderr
    bench = nldc("bench", "linear_ss", "--model", model, "--adapter", tmp_path)
    assert bench.exit_code == 1
    assert "uses no adapter" in bench.stderr


def test_unknown_keys_of_a_config_are_one_warning_of_ours(
    model: Path, artifacts: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "gate_type": "relu2"}))
    done = subprocess.run(
        [sys.executable, "-m", "nldc.cli", "verify", artifacts / "linear_ss", "--model", copy,
         "--count", "1", "--max-new-tokens", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "gate_type" in line]
    assert line.startswith(f"warning: {copy / 'config.json'}: gate_type is not a known key")


def test_weights_are_read_with_a_bar_on_a_terminal_only(
    model: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    monkeypatch.setattr("nldc.cli.output.BAR_EVERY", 0.0)
    monkeypatch.setattr("rich.progress.Progress.update", lambda *_a, **place: drawn.append(place))
    options = ("--model", model, "--ids", "1,2", "--max-new-tokens", "2", "--quiet")
    plain = nldc("run", artifacts / "ar", *options)
    assert not drawn
    monkeypatch.setattr("nldc.cli.output.is_terminal", lambda _stream: True)
    shown = nldc("run", artifacts / "ar", *options)
    assert drawn
    assert shown.stdout == plain.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--max-new-tokens", "0"), "--max-new-tokens 0 is not allowed"),
        (("--temperature", "-1"), "--temperature -1.0 is not allowed"),
        (("--temperature", "nan"), "--temperature nan is not allowed"),
        (("--top-k", "0"), "--top-k 0 is not allowed"),
        (("--top-p", "2"), "--top-p 2.0 is not allowed"),
        (("--min-p", "-1"), "--min-p -1.0 is not allowed"),
        (("--seed", "-1"), "--seed -1 is not allowed"),
        (("--stop", ""), "--stop '' is not allowed"),
    ],
)
def test_a_value_that_needs_no_model_is_refused_by_its_option_before_one_is_sought(
    tmp_path: Path, given: tuple[str, str], said: str
) -> None:
    result = nldc("run", tmp_path / "no artifact", "--prompt", "a", *given)
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_place_that_cannot_be_written_is_refused_before_the_artifact_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc import api

    (tmp_path / "mine").write_text("x")
    monkeypatch.setattr(api, "generate", lambda _: pytest.fail("the work was done"))
    result = nldc("compile", "ar", "-o", tmp_path)
    assert result.exit_code == 1
    assert "is not empty and holds no artifact" in result.stderr


@pytest.mark.parametrize(("recipe", "number"), [("drafter", "rank"), ("base", "batch")])
def test_the_help_of_training_lists_what_can_be_set(recipe: str, number: str) -> None:
    result = nldc("train", recipe, "--help")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert any(line[:1] == [number] and len(line) == 2 for line in lines)
