"""Tables of figures in README and docs/: each comes from one command, and is what it gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import sources
from benchmarks.report.__main__ import chosen_of, listed, main, pages
from benchmarks.report.blocks import blocks_of, outside, table, with_block
from benchmarks.report.demo import drafter_table
from benchmarks.report.entries import BLOCKS, SOURCES, Block
from benchmarks.report.sources import DATA, ROOT, Record, Source, bring, load, measured
from benchmarks.report.strategies import strategies_table, tapered_table

GALLERY = ROOT / "docs" / "gallery"
"""Pages with the README's figures, which `make pages` writes: tests/test_site.py holds them."""
PAGES = sorted(
    path
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if not path.is_relative_to(GALLERY)
)
DRAWN = re.compile(r"certificate/[a-z_-]+\.svg|(\.\./)?assets/linear_ss\.svg")
"""Pictures of strategies and of rules, in which nothing is measured."""
NOT_MEASURED = {
    ("docs/howto/gpu.md", "3B"): "what follows from the shapes",
    ("docs/checkpoints.md", "weights"): "what a format takes, by its definition",
    ("docs/serving.md", "option"): "defaults of options",
    ("docs/serving.md", "openai (Python)"): "versions of programs",
}
"""Tables of numbers that nothing measured, by page and first cell."""
SIGNS = "+\u2212\u2013-"
NUMBER = re.compile(rf"[\d.,:/()\s%x{SIGNS}]*(?:(?:ms|us|s|GB|MB|MiB)[\s,]*)*")


@pytest.mark.parametrize("page", [path for path in PAGES if blocks_of(path.read_text("utf-8"))],
                         ids=lambda path: str(path.relative_to(ROOT)))  # fmt: skip
def test_every_block_is_one_of_a_known_table_on_its_page(page: Path) -> None:
    known = {block.name for block in BLOCKS if ROOT / block.page == page}
    assert set(blocks_of(page.read_text("utf-8"))) == known


def test_blocks_and_sources_have_names_of_their_own() -> None:
    assert len({block.name for block in BLOCKS}) == len(BLOCKS)
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert {path.stem for path in DATA.glob("*.json")} == {source.name for source in SOURCES}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_is_what_is_written_of_its_figures(block: Block) -> None:
    inside = blocks_of((ROOT / block.page).read_text("utf-8"))[block.name]
    records = [load(source.name) for source in block.sources]
    assert inside == block.text(*records), "run `python -m benchmarks.report --write`"
    for record in records:
        assert f"From `{record.command}`: {record.device}, {record.date}, inputs" in inside
        assert f"`{record.inputs}`" in inside


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_kept_figures_say_where_they_come_from(source: Source) -> None:
    record = load(source.name)
    assert record.command == source.command
    assert record.device
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", record.date)
    assert re.fullmatch(r"[0-9a-f]{12}", record.inputs)
    assert (source.measure is None) == (source.kind == "kept")
    assert source.digest() == source.digest()


STEADY = [source for source in SOURCES if source.kind in ("cheap", "steady")]


@pytest.mark.parametrize("source", STEADY, ids=lambda source: source.name)
def test_figures_without_times_follow_from_what_is_there_now(source: Source) -> None:
    assert load(source.name).inputs == source.digest(), f"run `make report ONLY={source.name}`"


@pytest.mark.parametrize(
    "source", [each for each in SOURCES if each.kind == "cheap"], ids=lambda source: source.name
)
def test_figures_that_cost_seconds_are_what_the_command_gives_now(source: Source) -> None:
    assert load(source.name).data == measured(source).data, f"run `make report ONLY={source.name}`"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page outside of code: their lines, as cells."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?:^\|.*\n?)+", plain, re.MULTILINE)
    return [[cells(line) for line in each.splitlines()] for each in found]


def has_figures(lines: list[list[str]]) -> bool:
    """Whether a quarter of a table's cells, first column left out, are numbers."""
    body = [cell for line in lines[2:] for cell in line[1:] if cell]
    numbers = [cell for cell in body if re.search(r"\d", cell) and NUMBER.fullmatch(cell)]
    return bool(body) and len(numbers) >= len(body) / 4


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_table_of_figures_stands_outside_of_a_block(page: Path) -> None:
    name = str(page.relative_to(ROOT))
    for lines in tables(outside(page.read_text("utf-8"))):
        first = lines[0][0] or lines[2][0]
        assert not has_figures(lines) or (name, first) in NOT_MEASURED, f"mark the table {first!r}"


def test_every_table_that_is_let_off_is_there_and_has_numbers() -> None:
    for name, first in NOT_MEASURED:
        found = tables((ROOT / name).read_text("utf-8"))
        assert any(has_figures(each) for each in found if first in (each[0][0], each[2][0])), first


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_figure_stands_outside_of_a_block(page: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", outside(page.read_text("utf-8")))
    assert [each for each in pictures if not DRAWN.fullmatch(each)] == []


def test_a_table_of_figures_is_told_from_one_of_words() -> None:
    assert has_figures(tables("| a | b |\n| --- | --- |\n| x | 1.5 ms |\n")[0])
    assert has_figures(tables("| a | b |\n| --- | --- |\n| x | 26, 42 ms |\n| y | 16.5 % |\n")[0])
    assert not has_figures(tables("| a | b |\n| --- | --- |\n| x | 3 words |\n")[0])
    assert tables("```\n| a | b |\n| 1 | 2 |\n```\n") == []


# how figures become tables


def kept(data: Any) -> Record:
    return Record("a command", "a machine", "2026-01-02", "0" * 12, data)


def test_a_strategy_that_was_not_timed_has_its_forwards_and_no_speed() -> None:
    counted = [
        ["ar", 1.0, 1.0, None, 1.0, True, 1.0],
        ["linear_ss", 1.65, 1.66, 3.371, 3.37, True, 1.0],
        ["wino", 1.07, 1.09, None, 16.0, False, 0.0984],
    ]
    lines = strategies_table(kept(counted), kept({"ar": 650.0, "linear_ss": 780.0})).splitlines()
    assert lines[2:] == [
        "| `ar` | 1.00 | 1.00 | \u2013 | 1.00 | 100 % | 650.0 | 1.00 |",
        "| `linear_ss` | 1.65 | 1.66 | 3.37 | 3.37 | 100 % | 780.0 | 1.20 |",
        "| `wino` | 1.07 | 1.09 | \u2013 | 16.00 | 9.8 % | \u2013 | \u2013 |",
    ]


def test_budgets_say_what_of_them_was_used() -> None:
    found = [
        ["quadratic_ss", 2, 6, None, [2, 2], 2.39, 2.47],
        ["quadratic_ss_tapered", 2, 5, 6, [2, 1], 2.36, 2.43],
        ["quadratic_ss_tapered", 2, 4, 4, [1, 1], 2.3, 2.4],
    ]
    assert tapered_table(kept(found)).splitlines()[2:] == [
        "| `quadratic_ss` | 2 | 6 | 2 each | 2.39 | 2.47 |",
        "| `quadratic_ss_tapered` | 2 | 5 of 6 | 2 1 | 2.36 | 2.43 |",
        "| | 2 | 4 | 1 each | 2.30 | 2.40 |",
    ]


def test_a_gain_is_that_of_what_is_shown() -> None:
    rows = [
        [mode, k, 9, cycle, 1.0, other, 1.0]
        for k in (8, 16, 32)
        for mode, cycle, other in (("linear", 3.57, 3.11), ("linear + LoRA", 3.76, 3.21))
    ]
    lines = drafter_table(kept({"rows": rows})).splitlines()
    assert lines[2] == "| 8 | 3.57 | 3.76 | 5 % | 3.11 | 3.21 | 3 % |"


# the machinery


def test_an_edit_inside_a_block_is_undone_by_writing() -> None:
    page = (ROOT / "docs/sol.md").read_text("utf-8")
    inside = blocks_of(page)["light-accepted"]
    assert pages()["docs/sol.md"] == page
    edited = page.replace(inside, inside.replace("serial", "cereal"))
    assert edited != page
    assert with_block(edited, "light-accepted", inside) == page


def test_blocks_that_are_not_whole_are_refused() -> None:
    begin, end = "<!-- report: a -->\n", "<!-- end -->\n"
    assert blocks_of(f"x\n{begin}y\n{end}z") == {"a": "y\n"}
    for text, message in [
        (begin + end + begin + end, "two blocks are named a"),
        (begin + "y\n", "belongs to no block"),
        (end, "belongs to no block"),
        (begin + begin.replace("a", "b") + end, "not ended before the next"),
        ("<!-- report: A B -->\n" + end, "belongs to no block"),
    ]:
        with pytest.raises(ValueError, match=message):
            blocks_of(text)
    with pytest.raises(ValueError, match="there is no block b"):
        with_block(begin + end, "b", "")


def test_a_table_has_a_rule_and_its_numbers_to_the_right() -> None:
    assert table(["a", "b"], [["x", "1"], ["", "2"]], numbers=1) == (
        "| a | b |\n| --- | ---: |\n| x | 1 |\n| | 2 |\n"
    )


def made_up(folder: Path, monkeypatch: pytest.MonkeyPatch, data: Any) -> Source:
    (folder / "data").mkdir()
    (folder / "input.txt").write_text("one")
    monkeypatch.setattr(sources, "ROOT", folder)
    monkeypatch.setattr(sources, "DATA", folder / "data")
    return Source("made-up", "cheap", "a command", ("input.txt",), lambda: data)


def test_the_digest_is_that_of_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made_up(tmp_path, monkeypatch, {"a": 1})
    before = source.digest()
    (tmp_path / "input.txt").write_text("two")
    assert source.digest() != before
    with pytest.raises(ValueError, match=r"no file is nowhere"):
        Source("x", "cheap", "c", ("nowhere*",)).digest()


def test_figures_that_are_the_same_keep_their_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made_up(tmp_path, monkeypatch, {"a": 1})
    old = Record(source.command, "elsewhere", "2020-01-02", source.digest(), {"a": 1})
    sources.store(source.name, old)
    bring(source, {"a": 1})
    assert load(source.name) == old
    bring(source, {"a": 2})
    assert load(source.name).date > "2020-01-02"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["made-up.json"]


def test_what_was_never_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made_up(tmp_path, monkeypatch, 1)
    assert "made-up.json is missing" in listed(source)
    bring(source, 1)
    assert "as its inputs are: a command" in listed(source)
    (tmp_path / "input.txt").write_text("two")
    assert "its inputs have changed: a command" in listed(source)


def test_nothing_is_timed_on_a_machine_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="strategies-speed is timed, and this machine has a load"):
        chosen_of(["strategies-speed"])
    assert "strategies-speed" not in [each.name for each in chosen_of([], untimed=True)]
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    names = [each.name for each in chosen_of([])]
    assert "strategies-speed" in names
    assert "serving-soak" not in names


def test_a_source_that_is_none_or_is_brought_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing-such"]) == 1
    assert "there is no source nothing-such; they are" in capsys.readouterr().err
    assert main(["serving-soak"]) == 1
    assert "run `make soak` and bring what it says" in capsys.readouterr().err


def test_the_sources_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SOURCES)
