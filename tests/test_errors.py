"""Every code has a page, a bad file, a good file and the text that the bad one produces."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import Diagnostic, StrategyError
from nldc.errors import REGISTRY, pages
from nldc.render import render_text

Golden = Callable[[Path, str], None]

ROOT = Path(__file__).resolve().parent.parent
CASES = sorted(path for path in (ROOT / "tests" / "diagnostics").iterdir() if path.is_dir())
NO_BAD_FILE = "NLD001_missing_file"


def found_in(case: Path, stem: str) -> tuple[Diagnostic, ...]:
    """Check a file of a case, with its settings if it has any; return all that is said of it."""
    file, given = case / f"{stem}.yaml", case / f"{stem}.settings"
    written = file.read_bytes() if file.exists() else None
    lines = given.read_text(encoding="utf-8").split() if given.exists() else ()
    return said_of(stem, written, tuple(lines))


@cache  # many good files are the same
def said_of(stem: str, _written: bytes | None, lines: tuple[str, ...]) -> tuple[Diagnostic, ...]:
    """Check a file of the working folder."""
    settings: dict[str, int | float] = {}
    for line in lines:
        name, value = line.split("=")
        settings[name] = float(value) if "." in value else int(value)
    try:
        return api.check(f"{stem}.yaml", settings).warnings
    except StrategyError as error:
        return error.diagnostics


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    path: Path = request.param
    monkeypatch.chdir(path)
    return path


@pytest.mark.parametrize("case", CASES, indirect=True, ids=lambda path: path.name)
def test_a_bad_file_gives_its_code_and_exactly_the_expected_text(
    case: Path, golden: Golden
) -> None:
    assert case.joinpath("bad.yaml").exists() != (case.name == NO_BAD_FILE)
    found = found_in(case, "bad")
    assert case.name.split("_")[0] in {diagnostic.code for diagnostic in found}
    golden(case / "expected.txt", render_text(found))


@pytest.mark.parametrize("case", CASES, indirect=True, ids=lambda path: path.name)
def test_the_good_file_beside_it_is_clean(case: Path) -> None:
    assert render_text(found_in(case, "good")) == ""


@pytest.mark.parametrize("code", REGISTRY)
def test_every_code_has_a_case(code: str) -> None:
    assert any(path.name.startswith(f"{code}_") for path in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_every_case_belongs_to_a_code(case: Path) -> None:
    assert case.name.split("_")[0] in REGISTRY


def visible(text: str) -> str:
    """Write the line separator as an escape, as the page of NLD002 does."""
    return text.replace("\u2028", "\\u2028")


@pytest.mark.parametrize("code", REGISTRY)
def test_the_examples_of_a_page_are_lines_of_its_case(code: str) -> None:
    entry = REGISTRY[code]
    for stem, example in (("bad", entry.bad), ("good", entry.good)):
        if example.startswith("nldc "):
            continue
        files = [path / f"{stem}.yaml" for path in CASES if path.name.startswith(f"{code}_")]
        wanted = {line.strip() for line in example.split("\n")}
        assert any(
            wanted <= {line.strip() for line in visible(file.read_text("utf-8")).split("\n")}
            for file in files
            if file.exists()
        ), f"no {stem}.yaml of {code} has the lines {wanted}"


def test_every_code_in_the_source_has_an_entry_and_every_entry_is_used() -> None:
    used = {
        code
        for folder in ("nldc", "codegen")
        for path in (ROOT / folder).rglob("*.py")
        if "errors" not in path.relative_to(ROOT).parts
        for code in re.findall(r'"(NLD\d{3})"', path.read_text(encoding="utf-8"))
    }
    assert used == set(REGISTRY)


def test_codes_are_in_order() -> None:
    assert list(REGISTRY) == sorted(REGISTRY)


def test_the_pages_in_docs_are_the_ones_the_registry_makes() -> None:
    folder = ROOT / "docs" / "errors"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert written == pages(), "run `python -m nldc.errors docs/errors`"


def test_one_command_writes_the_pages(tmp_path: Path) -> None:
    (tmp_path / "NLD999.md").write_text("a code that is gone")
    command = [sys.executable, "-m", "nldc.errors", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert {path.name for path in tmp_path.iterdir()} == set(pages())
