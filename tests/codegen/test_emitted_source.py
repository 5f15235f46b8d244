"""What is generated for each strategy is pinned; it is the same twice, and it is plain Python."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nldc import api
from nldc.check.lossless import prove
from nldc.codegen.emit_artifact import emit_artifact

if TYPE_CHECKING:
    from conftest import Golden

GOLDEN = Path(__file__).parent.parent / "golden"
STRATEGIES = sorted(api.library())
PINNED = ("graph.txt", "program.txt", "decode.py", "patterns.py")


def emitted(name: str) -> dict[str, str]:
    checked = api.check(name)
    certificate = (checked.certificate or prove(checked.graph)).data()
    files = emit_artifact(checked.graph, f"{name}.yaml", checked.source.text, "0", certificate)
    return {file: content.decode() for file, content in files.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_generated_source_of_a_strategy_is_pinned(name: str, golden: Golden) -> None:
    files = emitted(name)
    for file in PINNED:
        golden(GOLDEN / name / f"{file}.txt", files[file])


def test_the_generated_source_of_several_strategies_is_pinned(
    golden: Golden, tmp_path: Path
) -> None:
    folder = api.compile(["linear_ss", "block_diffusion", "quadratic_ss"], tmp_path / "three")
    for file in ("decode.py", "certificate.json"):
        text = (folder / file).read_text("utf-8").replace(f"nldc {api.__version__}", "nldc 0")
        golden(GOLDEN / "switching" / f"{file}.txt", text)
    for name in ("linear_ss", "block_diffusion", "quadratic_ss"):
        alone = api.compile(name, tmp_path / name)
        for file in sorted(alone.iterdir()):
            assert (folder / name / file.name).read_bytes() == file.read_bytes()


def test_strategies_named_like_python_or_like_our_files_get_other_folders(tmp_path: Path) -> None:
    text = api.library()["ar"].read_text("utf-8")
    files = []
    for name in ("class", "decode", "a_b", "a__b"):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(text.replace("name: ar", f"name: {name}"), encoding="utf-8")
    folder = api.compile(files, tmp_path / "out")
    parts = json.loads((folder / "manifest.json").read_text("utf-8"))["strategies"]
    assert {name: part["folder"] for name, part in parts.items()} == {
        "class": "class_", "decode": "decode_", "a_b": "a_b", "a__b": "a__b",
    }  # fmt: skip
    assert list(api.load(folder).PARTS) == ["class", "decode", "a_b", "a__b"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", STRATEGIES)
def test_compiling_twice_gives_the_same_bytes(name: str) -> None:
    assert emitted(name) == emitted(name)


@pytest.mark.parametrize("name", STRATEGIES)
def test_generated_modules_import_the_runtime_only(name: str) -> None:
    allowed = {"__future__", "pathlib", "typing", "torch", "triton"}
    for file, text in emitted(name).items():
        if not file.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            roots = [m.split(".")[0] for m in modules if not m.startswith("nldc.runtime")]
            assert allowed.issuperset(roots), modules


def test_text_of_the_file_cannot_leave_its_comment_or_string(tmp_path: Path) -> None:
    hostile = 'x""" \\\nimport os; os.system("no")\u2028\x85 """ # '
    text = Path(api.library()["ar"]).read_text(encoding="utf-8")
    lines = [
        f"summary: {hostile!r}" if line.startswith("summary:") else line
        for line in text.splitlines()
    ]
    path = tmp_path / "hostile.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    checked = api.check(path)
    files = emit_artifact(checked.graph, 'a"""b.yaml', checked.source.text, "0")
    honest = emitted("ar")
    assert set(files) == set(honest) - {"certificate.json"}
    for file, content in files.items():
        if file.endswith(".py"):
            assert _code(content.decode()) == _code(honest[file])


def _code(text: str) -> str:
    """Return the module's syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body.pop(0)
    return ast.dump(tree)
