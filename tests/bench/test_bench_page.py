"""The page of a benchmark: what the data say, and nothing that a name could add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bench_made_up import data
from click.testing import CliRunner

from nldc.bench.page import page_of
from nldc.bench.plotted import front
from nldc.cli import cli


def test_a_page_has_every_plot_and_a_table_beside_each() -> None:
    text = page_of(data())
    assert text.count('<svg class="plot"') == 5
    assert text.count("<summary>As a table</summary>") == 5
    assert "TPF with prefill" in text
    assert "linear_ss block_length=4" in text
    assert ">61.5<" in text


def test_what_has_no_points_is_said_and_not_drawn() -> None:
    only = data()
    only["results"] = only["results"][:1]
    text = page_of(only)
    assert "Nothing here has any." in text
    assert "Acceptance by position" in text


def test_names_are_text_and_no_part_of_the_page() -> None:
    hostile = data()
    hostile["results"][1]["name"] = hostile["results"][1]["strategy"] = "<script>x</script>"
    hostile["results"][1]["categories"][0]["category"] = "<b>"
    text = page_of(hostile)
    assert "<script>x" not in text
    assert "<b>" not in text
    assert not re.search(r"https?://|url\(|@import|style=", text)


def test_the_front_is_what_no_other_betters() -> None:
    assert front([(1, 9), (2, 5), (2, 4), (3, 5), (0, 1)]) == [0, 3]
    assert front([(1, 1), (1, 1)]) == [0, 1]
    assert front([]) == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("there", "is no plain file"),
        ("mine.yaml", "holds something else"),
        ("nowhere/page.html", "cannot be written"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str
) -> None:
    monkeypatch.setattr("nldc.bench.bench", None)
    (tmp_path / "there").mkdir()
    (tmp_path / "mine.yaml").write_text("nldc: 1\n")
    found = CliRunner().invoke(cli, ["bench", "ar", "--html", str(tmp_path / place)])
    assert found.exit_code == 1, found.output
    assert said in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "there"]
    assert (tmp_path / "mine.yaml").read_text() == "nldc: 1\n"


def test_categories_have_a_table_where_there_are_some() -> None:
    text = page_of(data())
    assert "By category" in text
    plain: dict[str, Any] = data()
    for line in plain["results"]:
        line["categories"] = []
    assert "By category" not in page_of(plain)
