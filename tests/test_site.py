"""The site of docs/: what is made is up to date, and the navigation has every page.

`make docs` builds it, and asks the same of links and headings; this needs no mkdocs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nldc import api
from nldc.schema import OPS
from scripts.site import add_op, certificate, gallery, reference
from scripts.site.__main__ import made

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHIPPED = sorted(path.stem for path in (ROOT / "strategies").glob("*.yaml"))
DRAWN = ("ar", "linear_ss", "remask")
"""Strategies whose proof and pictures are made anew here; those of all are with the long tests."""
AGAIN = "run `make pages`, and review what it wrote"


def is_current(path: str, text: str) -> bool:
    return (DOCS / path).read_text("utf-8") == text


@pytest.mark.parametrize("part", [reference.pages, certificate.pictures, add_op.pages])
def test_what_is_made_of_the_schema_and_of_tests_is_up_to_date(part: Any) -> None:
    assert [path for path, text in part() if not is_current(path, text)] == [], AGAIN


@pytest.mark.parametrize("name", DRAWN)
def test_pages_of_the_gallery_are_up_to_date(name: str) -> None:
    for path, text in gallery.of(name):
        assert is_current(path, text), AGAIN


def test_every_strategy_has_a_page_with_its_file_and_its_figures() -> None:
    figures = gallery.measured()
    assert is_current("gallery/README.md", gallery.index(SHIPPED, figures)), AGAIN
    pages = {path.stem for path in (DOCS / "gallery").glob("*.md")}
    assert pages == {"README", *SHIPPED}
    for name in SHIPPED:
        text = (DOCS / "gallery" / f"{name}.md").read_text("utf-8")
        assert f"```yaml\n{api.library()[name].read_text('utf-8').rstrip()}\n```" in text, AGAIN
        assert f"| {' | '.join(figures[name][1:])} |" in text, AGAIN


@pytest.mark.long
def test_all_that_is_made_is_up_to_date() -> None:
    assert [path for path, text in made() if not is_current(path, text)] == [], AGAIN


def test_the_reference_has_every_op_and_every_key_with_an_example() -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    for op, model in OPS.items():
        part = text.partition(f"\n### `{op}`\n")[2].partition("\n### ")[0]
        assert "```yaml" in part
        for key in set(model.model_fields) - {"op"}:
            row = re.search(rf"^\| `{key}` \| .+ \| .* \| `.+` \|", part, re.MULTILINE)
            assert row is not None, (op, key)


def named(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for each in entry.values():
            yield from named(each)
    else:
        for each in entry:
            yield from named(each)


def test_the_navigation_names_pages_that_are_there_and_every_page_once() -> None:
    text = re.sub(r"!!python.*", "null", (ROOT / "mkdocs.yml").read_text("utf-8"))
    found = list(named(yaml.safe_load(text)["nav"]))
    whole = [each for each in found if "*" not in each]
    assert len(set(whole)) == len(whole)
    elsewhere = {"overview.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
    for page in whole:
        assert (DOCS / page).exists() or (ROOT / elsewhere.get(page, page)).exists(), page
    rest = {path for each in found if "*" in each for path in (DOCS / each).parent.glob("*.md")}
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages - set(whole) - {path.relative_to(DOCS).as_posix() for path in rest} == set()


def test_no_page_or_picture_asks_another_address() -> None:
    for path in [*DOCS.rglob("*.svg"), DOCS / "assets" / "site.css"]:
        text = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in text, path
    for page in DOCS.rglob("*.md"):
        assert re.findall(r"!\[[^\]]*\]\((?:https?:)?//", page.read_text("utf-8")) == [], page
