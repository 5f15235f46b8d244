"""Every code block of the documents is run, checked or left out for a reason that is known."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import re
import shlex
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.diagnostics import StrategyError
from tests.pages import WHY, Block, blocks_of, is_shown

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for folder in ("docs", "docs/howto", "docs/api")
        for path in (ROOT / folder).glob("*.md")
    ),
]
WITH_BLOCKS = [page for page in PAGES if any(blocks_of(page))]
GALLERY = sorted((ROOT / "docs" / "gallery").glob("*.md"))
FILES = ROOT / "tests" / "docs_files"
GIVEN = ("ar", "linear_ss", ("linear_ss", "ar"))
"""What a page may take for compiled, as the pages before it did: build/ar and so on, build/two."""

SHORT = {"run": {"max_new_tokens": 24}, "batch": {"max_new_tokens": 24}}
"""What is generated where a page leaves the number of tokens to the default, which is longer."""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as readers have it who followed the first pages."""
    folder = tmp_path_factory.mktemp("given")
    for each in GIVEN:
        several = each if isinstance(each, tuple) else (each,)
        name = "two" if isinstance(each, tuple) else each
        api.compile(list(several), folder / "build" / name, certify=False)
    return folder


@pytest.fixture
def folder(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, the working directory, from which Python imports; MODEL is the demo model."""
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    (tmp_path / "strategies").symlink_to(ROOT / "strategies")
    (tmp_path / "MODEL").symlink_to(ROOT / "nldc" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _forget_builds()
    yield tmp_path
    _forget_builds()


def _forget_builds() -> None:
    for name in [each for each in sys.modules if each == "build" or each.startswith("build.")]:
        del sys.modules[name]


class Reader:
    """Follows one page in a folder."""

    def __init__(self, page: Path, is_long: bool) -> None:
        self.stem = page.stem
        self.blocks = list(blocks_of(page))
        self.is_long = is_long
        self.printed: str | None = None
        self.names: dict[str, Any] = {"__name__": "page"}

    def follow(self) -> None:
        """Do what each block says, with the files that the page takes for given."""
        for name in ("every", self.stem):
            if (FILES / name).is_dir():
                shutil.copytree(FILES / name, ".", dirs_exist_ok=True)
        for block in self.blocks:
            if "not run" in block.notes:
                assert block.notes["not run"] in WHY, block
                self.printed = None
            elif "long" in block.notes and not self.is_long:
                self.printed = None
            elif "output" in block.notes or "output like" in block.notes:
                self._compare(block)
            else:
                self._do(block)

    def _compare(self, block: Block) -> None:
        if self.printed is None:  # of what is not run here
            return
        assert is_shown(block.text, self.printed, "output like" in block.notes), (
            f"{block} shows\n{block.text}\nand printed was\n{self.printed}"
        )

    def _do(self, block: Block) -> None:
        language = block.language
        if not language and block.text.startswith("nldc "):
            language = "sh"
        match language:
            case "sh":
                self.printed = "".join(self._shell(block))
            case "python":
                self.printed = self._python(block)
            case "yaml":
                self._yaml(block)
            case "json":
                if "example" not in block.notes:
                    read_json(block.text)
                self._write(block)
            case "toml":
                tomllib.loads(block.text)
            case "text":
                self._write(block)
            case _:
                pytest.fail(f"{block} is neither run nor said to be left out")

    def _shell(self, block: Block) -> Iterator[str]:
        lines = block.text.replace("\\\n", " ").splitlines()
        codes = []
        for line in lines:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            assert words[0] == "nldc", f"{block} runs `{line}`, which tests do not"
            words, file = (words[:-2], words[-1]) if ">" in words else (words, None)
            result = CliRunner().invoke(cli, words[1:], default_map=SHORT)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            codes.append(result.exit_code)
            yield "" if file else result.output
            if file:
                Path(file).write_text(result.stdout, "utf-8")
            last = len(codes) == len([each for each in lines if shlex.split(each, comments=True)])
            wanted = int(block.notes.get("exit", 0)) if last else 0
            assert result.exit_code == wanted, f"{block}: {line}\n{result.output}"

    def _python(self, block: Block) -> str:
        if "decoder" in block.text and "decoder" not in self.names:
            self.names["decoder"] = api.load("build/two").from_checkpoint()
        printed = io.StringIO()
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(block.text, str(block), "exec", flags=flags, dont_inherit=True)
        with contextlib.redirect_stdout(printed):
            found = eval(code, self.names)
            if inspect.iscoroutine(found):
                asyncio.run(found)
        return printed.getvalue()

    def _yaml(self, block: Block) -> None:
        if "example" in block.notes:
            return
        if "part of" in block.notes:
            name = block.notes["part of"]
            path = ROOT / name if name.endswith(".yaml") else api.find(name)
            whole = yaml.safe_load(path.read_text("utf-8"))
            part = yaml.safe_load(block.text)
            assert any(holds(each, part) for each in mappings_in(whole)), block
            return
        if "in" in block.notes:
            check_in(block)
            return
        if "line of" in block.notes:
            file = Path(block.notes["line of"])
            start = re.escape(block.text.partition(":")[0] + ":")
            text, count = re.subn(rf"^{start}.*\n", block.text, file.read_text("utf-8"), flags=re.M)
            assert count == 1, block
            file.write_text(text, "utf-8")
            return
        self._write(block)
        if not block.text.startswith("nldc:"):
            pytest.fail(f"{block} is a part of a file, and does not say of which")
        if set(yaml.safe_load(block.text)) == {"nldc", "fragments"}:
            return
        wanted = block.notes.get("refused")
        name = block.notes.get("file", "page.yaml")
        Path(name).write_text(block.text, "utf-8")
        try:
            found = [each.code for each in api.check(name).warnings]
        except StrategyError as error:
            found = [each.code for each in error.diagnostics]
        assert found[:1] == ([wanted] if wanted else []), block

    def _write(self, block: Block) -> None:
        name = block.notes.get("file")
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(block.text, "utf-8")


def read_json(text: str) -> None:
    """Read a JSON value, or one a line."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        for line in text.splitlines():
            json.loads(line)


def mappings_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping of data, the outermost first."""
    if isinstance(value, Mapping):
        yield value
    inner = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    )
    for each in inner:
        yield from mappings_in(each)


def holds(whole: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether data has all that a part of it has."""
    return all(
        key in whole
        and (
            holds(whole[key], value)
            if isinstance(value, Mapping) and isinstance(whole[key], Mapping)
            else whole[key] == value
        )
        for key, value in part.items()
    )


def check_in(block: Block) -> None:
    """Check a strategy with a block's nodes put into one of its regions, or under its own keys."""
    name, *regions = block.notes["in"].split(".")
    heads = [f"{'  ' * depth}{region}:\n" for depth, region in enumerate(regions)]
    nodes = textwrap.indent(block.text, "  " * len(regions))
    text = f"nldc: 1\nname: page\nextends: {name}\nguarantee: none\n{''.join(heads)}{nodes}"
    Path("page.yaml").write_text(text, "utf-8")
    try:
        found = api.check("page.yaml")
    except StrategyError as error:
        pytest.fail(f"{block}: {error}")
    assert {each.code for each in found.warnings} <= {"NLD033"}, block


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_what_a_page_shows_is_what_happens(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below, without what takes long, and artifacts are not tried before they are there."""
    monkeypatch.setattr(api, "_certify", lambda *_: None)
    Reader(page, is_long=False).follow()


@pytest.mark.long
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [*WITH_BLOCKS, *GALLERY], ids=named)
def test_all_that_a_page_shows_is_what_happens(page: Path) -> None:
    Reader(page, is_long=True).follow()
