"""The arrows between parts, read from the source, and what a fresh interpreter loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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
    "source": ("diagnostics",),
    "render": ("diagnostics",),
    "errors": (),
    "schema": (),
    "shape": ("diagnostics", "source"),
    "ir": (*LANGUAGE, "source", "schema", "shape"),
    "check": (*LANGUAGE, "source", "ir"),
    "interpret": (*LANGUAGE, "ir"),
    "api": ("", "diagnostics", "source", "ir", "check", "limits"),
    "explain": ("api", "expr", "ir", "check", "limits"),
    "diff": ("api", "expr", "ir"),
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
        "runtime.abi",
        "runtime.checkpoint.config",
        "runtime.errors",
        "runtime.json_file",
    ),
    "compat": ("ir",),
    "prompts": ("runtime.errors",),
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
    "bench": ("", "acceptance", "api", "observed", "prompts", "runtime.errors", "verify"),
    "observed": ("acceptance", "ir", "prompts"),
    "sol": ("api", "diagnostics", "prompts", "verify"),
    "training": ("diagnostics", "runtime.errors"),
    "doctor": ("", "verify"),
    "certify": ("runtime",),
    "__main__": ("cli",),
    "cli": ("", "diagnostics", "render", "runtime.errors"),
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
    "api": ("certify", "codegen", "runtime"),
    "limits": ("codegen",),
    "verify": ("runtime",),
    "ahead": ("runtime",),
    "bench": ("cost", "runtime"),
    "observed": ("runtime",),
    "sol": ("runtime",),
    "training": ("runtime",),
    "certify": ("api",),
    "doctor": ("runtime",),
    "cli": (
        "ahead", "api", "bench", "certify", "diff", "doctor", "errors", "explain", "import_gguf",
        "acceptance", "cost", "limits",
        "prompts", "schema", "sol", "training", "verify", "runtime",
    ),
}  # fmt: skip
# The rooms of the runtime, from the lowest up: a module imports its own room and those before it.
# Modules that lie in no room are listed with what they stand on.
ROOMS = (
    "invariant",
    "checkpoint",
    "text",
    "rows",
    "reference",
    "cache",
    "kernels",
    "model",
    "step",
    "graph",
    "engine",
)
GROUND = ("abi", "attached", "errors", "files", "json_file", "whole_numbers")
FRONT = ("ahead", "alike", "decoder", "loading", "switching")
LOADING = ("artifact", "artifact_import")
TRAINING = (*GROUND, "checkpoint", "text", "reference", "train")

HEAVY = ("torch", "triton")
MAY_BE_HEAVY = ("certify", "runtime")
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    part = part_of(module)
    assert part in ALLOWED, f"say in this test what `{part}` may import"
    for name in imports(tree, top=True):
        other = target(name)
        if other is not None:
            assert may_import(module, other, ALLOWED[part]), f"{module} imports {name}"
    lazily = (*ALLOWED[part], *LAZY.get(part, ()))
    for name in imports(tree, top=False):
        other = target(name)
        if other is not None:
            assert may_import(module, other, lazily), f"{module} imports {name} in a function"


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


@pytest.mark.parametrize("module", [n for n in MODULES if n.startswith("runtime.")])
def test_rooms_of_the_runtime_import_only_those_below(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    allowed = below(module.split(".")[1])
    for top in (True, False):
        for name in imports(tree, top=top):
            other = target(name)
            if other is not None and other.startswith("runtime."):
                assert other.split(".")[1] in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) not in MAY_BE_HEAVY])
def test_the_language_and_the_code_generator_load_no_torch(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = {name.split(".")[0] for name in imports(tree, top=True)}
    assert found.isdisjoint(HEAVY)


# What only prints may know of the rest: the data that it prints, and how texts are put together.
PRINTERS = ("print_decode", "print_kernels", "print_patterns", "print_switch", "predicate")
PRINTED = ("program", "compact", "writer", *PRINTERS)
READS = ("diagnostics", "ir.size", "runtime.abi")
FROM_EXPRESSIONS = {
    "And", "Boolean", "Compare", "Expr", "Not", "Or", "Ref", "references", "show", "to_python",
}  # fmt: skip


@pytest.mark.parametrize("name", [*PRINTERS, "compact", "writer"])
def test_what_prints_a_program_decides_nothing(name: str) -> None:
    tree = ast.parse(MODULES[f"codegen.{name}"].read_text(encoding="utf-8"))
    for imported in (each for top in (True, False) for each in imports(tree, top=top)):
        other = target(imported)
        if other is None:
            assert imported.split(".")[0] not in ("re", *HEAVY), imported
        elif other == "expr":
            assert imported.rpartition(".")[2] in FROM_EXPRESSIONS, imported
        else:
            assert other in (*(f"codegen.{each}" for each in PRINTED), "codegen", *READS), imported


def test_passes_never_import_passes() -> None:
    for module, path in MODULES.items():
        if module.startswith("codegen.passes."):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {target(name) for top in (True, False) for name in imports(tree, top=top)}
            others = {name for name in names if name and name.startswith("codegen.passes.")} - {
                module
            }
            assert not others, f"{module} imports {others}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_private_name_of_another(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nldc"):
            names = {alias.name for alias in node.names} - {"__version__"}
            assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    path = MODULES[module]
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_exist_and_are_sorted(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
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
    assert listed == sorted(listed, key=lambda name: (not name.isupper(), name))
    assert set(listed) <= defined


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after running `code`."""
    report = f"{code}\nimport sys; print('\\n', *(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


CLI = "from nldc.cli import cli; cli({arguments!r}, standalone_mode=False)"


@pytest.mark.parametrize(
    "code",
    [
        "import nldc",
        "import nldc.api",
        "import nldc.cli",
        "import nldc.codegen.emit_artifact",
        *(f"import nldc.runtime.{name}" for name in TORCH_FREE_RUNTIME),
        CLI.format(arguments=["check", "strategies/ar.yaml"]),
        CLI.format(arguments=["check", "strategies/quadratic_ss_lora.yaml"]),
        CLI.format(arguments=["explain", "linear_ss"]),
        CLI.format(arguments=["explain", "NLD012"]),
        CLI.format(arguments=["explain", "linear_ss", "--device", "h100"]),
        CLI.format(arguments=["compile", "quadratic_ss_lora", "--emit", "kernels"]),
        CLI.format(arguments=["strategies"]),
        CLI.format(arguments=["schema"]),
    ],
)
def test_a_fresh_interpreter_loads_no_torch(code: str) -> None:
    assert loaded_by(code).isdisjoint(HEAVY)


def test_compiling_without_certifying_loads_no_torch(tmp_path: Path) -> None:
    arguments = ["compile", "quadratic_ss", "--no-certify", "-o", str(tmp_path / "out")]
    code = CLI.format(arguments=arguments)
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
