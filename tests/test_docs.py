"""Pages against what they tell of: links lead somewhere, commands and folders exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nldc.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (".", "docs", "docs/errors", "docs/howto", "benchmarks", "nldc/demo")
    for path in (ROOT / folder).glob("*.md")
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchor(heading: str) -> str:
    """Return what a heading is called in links, as GitHub does."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCED.sub("", page.read_text("utf-8"))
    return {anchor(each) for each in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not heading or heading in anchors(file), target


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the lines of a page's code that call `nldc`, as a shell splits them."""
    for block in FENCED.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("nldc ") and "$(" not in line:
                yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [each for each in PAGES if any(commands(each))], ids=named)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known | {"--help", "--version"}, words


def test_the_readme_has_a_line_for_every_command() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("## Commands")[2]
    assert [name for name in cli.commands if f"`nldc {name}" not in table] == []


@pytest.mark.parametrize("folder", ["nldc", "runtime"])
def test_the_tree_of_the_architecture_names_what_lies_in_a_folder(folder: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = next(block for block in FENCED.findall(text) if "\nnldc/ " in block)
    linked = {"codegen", "runtime", "strategies"}
    stems = {
        path.stem
        for path in (ROOT / folder).iterdir()
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith((".", "_"))
    } - linked
    words = set(re.findall(r"\w+", tree)) | {
        stem for stem in stems for start in re.findall(r"(\w+)\*", tree) if stem.startswith(start)
    }
    assert stems - words == set()
    there = {path.name for top in ("nldc", "codegen", "runtime") for path in files_of(ROOT / top)}
    assert {name for name in re.findall(r"\b\w+\.py\b", tree) if name not in there} == set()


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.py") if not path.is_symlink())
