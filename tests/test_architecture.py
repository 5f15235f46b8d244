"""The arrows between parts, read from the source, and what a fresh interpreter loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOME = {"codegen": ROOT / "codegen", "runtime": ROOT / "runtime"}

# What each part of nldc may import at the top of a module: `part` or `part.module`. A part may
# always import itself. What is listed in LAZY may be imported inside functions only.
LANGUAGE = ("diagnostics", "expr")
ALLOWED: dict[str, tuple[str, ...]] = {
    "": (),
    "diagnostics": ("",),
    "expr": (),
    "characters": (),
    "source": ("characters", "diagnostics"),
    "packages": (),
    "reuse": (*LANGUAGE, "ir.words", "packages", "schema", "shape", "source"),
    "render": ("diagnostics", "tabular"),
    "tabular": (),
    "errors": (),
    "schema": (),
    "editor_schema": ("editor_texts", "ir.attributes", "schema"),
    "editor_texts": (),
    "starter": ("api", "editor_texts", "reuse", "runtime.errors", "schema", "source"),
    "shape": ("diagnostics", "source"),
    "ir": (*LANGUAGE, "source", "schema", "shape"),
    "check": (*LANGUAGE, "source", "ir"),
    "noise": (),
    "interpret": (*LANGUAGE, "ir", "noise"),
    "api": ("", "diagnostics", "packages", "reuse", "source", "ir", "check", "limits"),
    "explain": (
        *LANGUAGE,
        "",
        "acceptance",
        "api",
        "check",
        "codegen",
        "cost",
        "ir",
        "limits",
        "reuse",
        "source",
        "view",
    ),
    "diff": ("api", "expr", "ir", "tabular"),
    "acceptance": ("ir", "runtime.errors", "runtime.files", "runtime.json_file"),
    "limits": ("diagnostics", "source", "ir", "check"),
    "cost": (
        *LANGUAGE,
        "",
        "acceptance",
        "api",
        "observed",
        "ir",
        "codegen",
        "source",
        "tabular",
        "runtime.abi",
        "runtime.checkpoint.config",
        "runtime.errors",
        "runtime.json_file",
    ),
    "compat": ("ir",),
    "pictures": ("runtime.errors",),
    "prompts": ("pictures", "runtime.errors"),
    "talk": (),
    "hf": ("", "api", "runtime"),
    "verify": ("api", "prompts"),
    "ahead": (
        "api",
        "codegen",
        "cost",
        "ir",
        "runtime.abi",
        "runtime.errors",
        "verify",
    ),
    "batch": (
        "pictures",
        "runtime.artifact",
        "runtime.errors",
        "runtime.files",
        "runtime.json_file",
    ),
    "bisect": ("prompts", "runtime.errors", "trace", "verify"),
    "bench": (
        "",
        "acceptance",
        "api",
        "ir",
        "observed",
        "prompts",
        "runtime.errors",
        "runtime.files",
        "suite",
        "verify",
        "view",
    ),
    "suite": ("prompts", "runtime.errors"),
    "observed": ("acceptance", "ir", "prompts"),
    "sol": ("api", "diagnostics", "prompts", "verify"),
    "training": ("diagnostics", "runtime.errors"),
    "doctor": ("", "verify"),
    "certify": ("runtime",),
    "serve": ("", "api", "diagnostics", "runtime", "trace", "view"),
    "view": (),
    "trace": (
        "",
        "diagnostics",
        "render",
        "runtime.artifact",
        "runtime.errors",
        "runtime.files",
        "runtime.json_file",
        "tabular",
        "verify",
        "view",
    ),
    "__main__": ("cli",),
    "cli": ("", "diagnostics", "render", "runtime.errors", "tabular"),
    "import_gguf": (
        "runtime.checkpoint.config",
        "runtime.checkpoint.folder",
        "runtime.checkpoint.quantization",
        "runtime.errors",
        "gguf_file",
        "gguf_numbers",
        "gguf_tokenizer",
    ),
    "gguf_file": ("runtime.errors",),
    "gguf_numbers": (),
    "gguf_tokenizer": ("runtime.errors",),
    "codegen": (
        *LANGUAGE,
        "ir",
        "runtime.abi",
        "runtime.errors",
        "runtime.files",
        "runtime.json_file",
    ),
    "runtime": ("", "runtime"),
}
LAZY: dict[str, tuple[str, ...]] = {
    "pictures": ("runtime.vision.picture",),
    "api": ("certify", "codegen", "runtime"),
    "limits": ("codegen",),
    "talk": ("runtime",),
    "verify": ("runtime",),
    "ahead": ("runtime",),
    "batch": ("runtime", "verify"),
    "bench": ("cost", "runtime"),
    "observed": ("runtime",),
    "sol": ("runtime",),
    "training": ("runtime",),
    "trace": ("runtime",),
    "bisect": ("runtime",),
    "certify": ("api",),
    "doctor": ("runtime",),
    "cli": (
        "ahead", "api", "batch", "bench", "bisect", "certify", "diff", "doctor", "editor_schema",
        "errors",
        "explain", "packages", "reuse",
        "import_gguf", "acceptance", "cost", "hf", "limits",
        "pictures", "prompts", "schema", "serve", "sol", "starter", "talk", "trace", "training",
        "verify", "view", "runtime",
    ),
}  # fmt: skip
# The rooms of the runtime, from the lowest up: a module imports its own room and those before it.
# Modules that lie in no room are listed with what they stand on.
ROOMS = (
    "invariant",
    "checkpoint",
    "text",
    "vision",
    "rows",
    "reference",
    "cache",
    "kernels",
    "cpu",
    "model",
    "step",
    "graph",
    "engine",
    "trace",
)
GROUND = ("abi", "attached", "errors", "files", "json_file", "whole_numbers")
FRONT = ("ahead", "alike", "decoder", "loading", "sharing", "switching")
LOADING = ("artifact", "artifact_import")
TRAINING = (*GROUND, "checkpoint", "text", "reference", "train")

HEAVY = ("torch", "triton")
MAY_BE_HEAVY = ("certify", "hf", "runtime")
TORCH_FREE_RUNTIME = ("abi", "artifact", "artifact_import", "errors", "files", "checkpoint.config")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the project by its dotted name below nldc; `` is nldc itself."""
    for path in sorted((ROOT / "nldc").rglob("*.py")):
        parts = path.relative_to(ROOT / "nldc").with_suffix("").parts
        if parts[0] not in (*HOME, "strategies"):
            yield dotted(parts), path
    for name, folder in HOME.items():
        for path in sorted(folder.rglob("*.py")):
            yield dotted((name, *path.relative_to(folder).with_suffix("").parts)), path


def dotted(parts: tuple[str, ...]) -> str:
    return ".".join(part for part in parts if part != "__init__")


MODULES = dict(modules())


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(tree: ast.AST, *, top: bool) -> Iterator[str]:
    """Absolute names imported when the module is loaded (`top`), or inside its functions."""
    for node, is_inside in walk(tree, False):
        if is_inside == top:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def walk(node: ast.AST, is_inside: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child, is_inside
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, is_inside or is_function)


def target(name: str) -> str | None:
    """The project's module that an imported name lies in, or None if it is not ours."""
    if name.split(".")[0] != "nldc":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def part_of(module: str) -> str:
    return module.split(".")[0]


def may_import(module: str, other: str, allowed: tuple[str, ...]) -> bool:
    is_own = part_of(module) == part_of(other) != ""
    return is_own or other in allowed or (part_of(other) != "" and part_of(other) in allowed)


def test_what_each_part_may_import_is_said_here() -> None:
    assert {part_of(module) for module in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("top", [True, False], ids=["when_loaded", "in_functions"])
def test_imports_follow_the_arrows(top: bool) -> None:
    wrong = []
    for module in MODULES:
        part = part_of(module)
        allowed = ALLOWED[part] if top else (*ALLOWED[part], *LAZY.get(part, ()))
        for name in imports(parsed(module), top=top):
            other = target(name)
            if other is not None and not may_import(module, other, allowed):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_document_lists_rooms_in_the_order_of_their_arrows() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = text[text.index("\nruntime/") : text.index("\nstrategies/")]
    assert tuple(re.findall(r"^  (\w+)/", listed, re.MULTILINE)) == (*ROOMS, "train")


def below(room: str) -> tuple[str, ...]:
    """What a module of the runtime may import, by the room that it lies in."""
    if room in GROUND:
        return GROUND
    if room in LOADING:
        return (*GROUND, *LOADING)
    if room == "train":
        return TRAINING
    if room in FRONT:
        return (*GROUND, *ROOMS, *FRONT)
    assert room in ROOMS, f"say in this test where the room `{room}` lies"
    return (*GROUND, *ROOMS[: ROOMS.index(room) + 1])


def test_rooms_of_the_runtime_import_only_those_below() -> None:
    wrong = []
    for module in (each for each in MODULES if each.startswith("runtime.")):
        allowed = below(module.split(".")[1])
        for name in (each for top in (True, False) for each in imports(parsed(module), top=top)):
            other = target(name)
            if other is not None and other.startswith("runtime."):
                wrong += [f"{module} imports {name}"] * (other.split(".")[1] not in allowed)
    assert wrong == []


def test_the_language_and_the_code_generator_load_no_torch() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if part_of(module) not in MAY_BE_HEAVY
        for name in imports(parsed(module), top=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


# What only prints may know of the rest: the data that it prints, and how texts are put together.
PRINTERS = (
    "print_decode", "print_kernels", "print_params", "print_patterns", "print_switch", "predicate"
)  # fmt: skip
PRINTED = ("program", "compact", "writer", *PRINTERS)
READS = ("diagnostics", "ir.size", "runtime.abi")
FROM_EXPRESSIONS = {
    "And", "Boolean", "Compare", "Expr", "Not", "Or", "Ref", "references", "show", "to_python",
}  # fmt: skip


@pytest.mark.parametrize("name", [*PRINTERS, "compact", "writer"])
def test_what_prints_a_program_decides_nothing(name: str) -> None:
    tree = parsed(f"codegen.{name}")
    for imported in (each for top in (True, False) for each in imports(tree, top=top)):
        other = target(imported)
        if other is None:
            assert imported.split(".")[0] not in ("re", *HEAVY), imported
        elif other == "expr":
            assert imported.rpartition(".")[2] in FROM_EXPRESSIONS, imported
        else:
            assert other in (*(f"codegen.{each}" for each in PRINTED), "codegen", *READS), imported


EXPLAINERS = ("print_boxes", "print_grid", "print_html", "print_svg", "print_text")
EXPLAINED = ("model", "paint", "layers", *EXPLAINERS)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_what_prints_an_explanation_decides_nothing(name: str) -> None:
    tree = parsed(f"explain.{name}")
    for imported in (each for top in (True, False) for each in imports(tree, top=top)):
        other = target(imported)
        if other is not None:
            assert other in (*(f"explain.{each}" for each in EXPLAINED), "view.page"), imported


def test_passes_never_import_passes() -> None:
    for module in MODULES:
        if module.startswith("codegen.passes."):
            tree = parsed(module)
            names = {target(name) for top in (True, False) for name in imports(tree, top=top)}
            others = {name for name in names if name and name.startswith("codegen.passes.")} - {
                module
            }
            assert not others, f"{module} imports {others}"


def test_no_module_imports_a_private_name_of_another() -> None:
    wrong = [
        f"{module} imports {alias.name}"
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nldc")
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    trees = {module: parsed(module) for module in MODULES}
    assert [m for m, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_public_names_exist_and_are_sorted() -> None:
    found = {module: public_names(parsed(module)) for module in MODULES}
    assert [module for module, (listed, defined) in found.items() if set(listed) - defined] == []
    assert [
        module
        for module, (listed, _) in found.items()
        if listed != sorted(listed, key=lambda name: (not name.isupper(), name))
    ] == []


def public_names(tree: ast.Module) -> tuple[list[str], set[str]]:
    """What a module lists in `__all__`, and every name that it defines."""
    listed: list[str] = []
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {ast.unparse(each) for each in targets}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    return listed, defined


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after running `code`."""
    report = f"{code}\nimport sys; print('\\n', *(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import nldc",
        "import nldc.api",
        "import nldc.cli",
        "import nldc.codegen.emit_artifact",
        *(f"import nldc.runtime.{name}" for name in TORCH_FREE_RUNTIME),
    ],
)
def test_a_fresh_interpreter_loads_no_torch(code: str) -> None:
    assert loaded_by(code).isdisjoint(HEAVY)


def test_commands_that_decode_nothing_load_no_torch(tmp_path: Path) -> None:
    """One after another in one interpreter; the first that loads it is named."""
    commands = [
        ["schema"],
        ["explain", "NLD012"],
        ["check", "strategies/ar.yaml"],
        ["check", "strategies/quadratic_ss_lora.yaml"],
        ["explain", "linear_ss"],
        ["explain", "linear_ss", "--device", "h100"],
        ["explain", "linear_ss", "--full"],
        ["explain", "linear_ss", "--html", str(tmp_path / "page.html")],
        ["compile", "quadratic_ss_lora", "--emit", "kernels"],
        ["compile", "quadratic_ss", "--no-certify", "-o", str(tmp_path / "out")],
        ["strategies"],
    ]
    code = "import sys\nfrom nldc.cli import cli\n" + "\n".join(
        f"cli({arguments!r}, standalone_mode=False)\n"
        f"assert sys.modules.keys().isdisjoint({HEAVY!r}), {arguments!r}"
        for arguments in commands
    )
    assert loaded_by(code).isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["ar", "block_diffusion", "quadratic_ss_lora"])
def test_generated_code_imports_the_runtime_and_nothing_else_of_ours(
    name: str, tmp_path: Path
) -> None:
    from nldc import api

    for path in api.compile(name, tmp_path / name).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            ours = [each for each in names if each.split(".")[0] == "nldc"]
            assert all(f"{each}.".startswith("nldc.runtime.") for each in ours)


def test_importing_nldc_loads_hardly_anything() -> None:
    assert loaded_by("import nldc").isdisjoint({"pydantic", "networkx", "yaml", "click", "numpy"})
