"""What runs of an artifact are the bytes that were verified: nothing planted beside them does."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nldc import api
from nldc.runtime import artifact as artifact_module
from nldc.runtime.errors import ArtifactError

EVIL = (
    "import builtins; builtins.evil_ran = True\nclass Decoder: pass\nBIDIRECTIONAL = CAUSAL = 0\n"
)
TAG = sys.implementation.cache_tag
NAMES = ("one", "sev")
"""How the names of the artifacts' packages begin."""


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    yield
    import builtins

    ran = vars(builtins).pop("evil_ran", False)
    assert not ran, "code ran that the manifest does not cover"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts for every test to copy."""
    root = tmp_path_factory.mktemp("compiled")
    api.compile("linear_ss", root / "one", certify=False)
    api.compile(["ar", "linear_ss"], root / "several", certify=False)
    return root


@pytest.fixture(params=["one", "several"])
def folder(request: pytest.FixtureRequest, compiled: Path, tmp_path: Path) -> Path:
    """The folder of a strategy: an artifact of its own, or part of one of several."""
    own = Path(shutil.copytree(compiled / request.param, tmp_path / request.param))
    return own if request.param == "one" else own / "linear_ss"


def root_of(folder: Path) -> Path:
    return folder.parent if folder.parent.name == "several" else folder


def bytecode(source: Path, *, checked: bool) -> bytes:
    code = compile(EVIL, str(source), "exec")
    if not checked:
        return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + b"\0" * 8 + dumps(code)
    status = source.stat()
    times = int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + bytes(4) + times + dumps(code)


def dumps(code: object) -> bytes:
    return marshal.dumps(code)


def cached(folder: Path, *, checked: bool) -> None:
    (folder / "__pycache__").mkdir(exist_ok=True)
    target = folder / "__pycache__" / f"decode.{TAG}.pyc"
    target.write_bytes(bytecode(folder / "decode.py", checked=checked))


def a_package_of_bytecode(folder: Path) -> None:
    (folder / "decode").mkdir()
    data = bytecode(folder / "decode.py", checked=False)
    (folder / "decode" / "__init__.pyc").write_bytes(data)


def a_link_to_a_package(folder: Path) -> None:
    target = folder.parent.parent / "elsewhere"
    target.mkdir(parents=True, exist_ok=True)
    (target / "__init__.py").write_text(EVIL)
    (folder / "decode").symlink_to(target)


def a_linked_file(folder: Path) -> None:
    target = folder.parent.parent / "patterns.txt"
    target.write_bytes((folder / "patterns.py").read_bytes())
    (folder / "patterns.py").unlink()
    (folder / "patterns.py").symlink_to(target)


def a_linked_bytecode_folder(folder: Path) -> None:
    target = folder.parent.parent / "cache"
    target.mkdir()
    (folder / "__pycache__").symlink_to(target)


def a_folder_in_the_bytecode_folder(folder: Path) -> None:
    (folder / "__pycache__" / f"__init__.{TAG}.pyc").mkdir(parents=True)


PLANTED: dict[str, Callable[[Path], object]] = {
    "bytecode of the right time": lambda f: cached(f, checked=True),
    "bytecode with an unchecked hash": lambda f: cached(f, checked=False),
    "a package of bytecode": a_package_of_bytecode,
    "a link to a package": a_link_to_a_package,
    "a linked file": a_linked_file,
    "a linked bytecode folder": a_linked_bytecode_folder,
    "a folder in the bytecode folder": a_folder_in_the_bytecode_folder,
    "an extension": lambda f: (f / f"decode.{TAG}-x86_64-linux-gnu.so").write_bytes(b""),
    "a plain extension": lambda f: (f / "decode.so").write_bytes(b""),
    "a module": lambda f: (f / "torch.py").write_text(EVIL),
    "an empty folder": lambda f: (f / "torch").mkdir(),
    "notes": lambda f: (f / "notes.txt").write_text("mine"),
    "a pipe": lambda f: os.mkfifo(f / "pipe"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_whatever_is_planted_in_the_folder_is_refused_by_its_name(folder: Path, what: str) -> None:
    before = {path.name for path in folder.rglob("*")}
    PLANTED[what](folder)
    names = {path.name for path in folder.rglob("*")} - before or {"patterns.py", "link"}
    with pytest.raises(ArtifactError) as caught:
        api.load(root_of(folder))
    assert any(name in caught.value.message for name in names)


def test_bytecode_of_the_package_itself_is_left_by_a_plain_import_and_never_run(
    folder: Path,
) -> None:
    (folder / "__pycache__").mkdir()
    planted = folder / "__pycache__" / f"__init__.{TAG}.pyc"
    planted.write_bytes(bytecode(folder / "__init__.py", checked=True))
    assert api.load(root_of(folder)).STRATEGY in ("linear_ss", "ar+linear_ss")


def test_a_pipe_in_the_place_of_a_file_is_an_error_and_no_wait(folder: Path) -> None:
    (folder / "patterns.py").unlink()
    os.mkfifo(folder / "patterns.py")
    with pytest.raises(ArtifactError, match=r"patterns\.py cannot be read: it is no plain file"):
        api.load(root_of(folder))


def test_what_is_swapped_after_the_check_does_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = artifact_module.read_artifact

    def read_then_swap(path: str | Path) -> artifact_module.Artifact:
        found = read(path)
        for name in ("__init__.py", "decode.py", "patterns.py"):
            (folder / name).write_text(EVIL)
        return found

    monkeypatch.setattr("nldc.runtime.artifact_import.read_artifact", read_then_swap)
    assert "linear_ss" in api.load(root_of(folder)).STRATEGY


def test_the_lines_of_a_kernel_are_those_that_were_verified(folder: Path) -> None:
    triton = pytest.importorskip("triton")
    decoder = api.load(root_of(folder))
    package = decoder.__module__.rpartition(".")[0]
    part = "" if folder == root_of(folder) else ".linear_ss"
    patterns = importlib.import_module(f"{package}{part}.patterns")
    for file in folder.glob("kernel_*.py"):
        file.write_text("# nothing is here any more\n" * 40)
    sees = patterns.CAUSAL.kernel()
    assert sees.fn.__module__.startswith(f"{package}{part}.kernel_")
    assert isinstance(sees, triton.runtime.JITFunction)
    assert "k_row <= q_row" in sees.src
    assert "k_row <= q_row" in inspect.getsource(sees.fn)


def test_loading_writes_no_bytecode(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    api.load(root_of(folder))
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).resolve().parents[2]
    python_path = os.pathsep.join(map(str, (*paths, here)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plain_import_runs_its_modules_from_verified_bytes(folder: Path) -> None:
    package = ".".join(folder.relative_to(root_of(folder).parent).parts)
    code = f"from {package} import Decoder; print(Decoder.STRATEGY)"
    again = f"import sys; [sys.modules.pop(m) for m in list(sys.modules) if m[:3] in {NAMES}]"
    # The second import finds the bytecode that the first left behind.
    done = run(f"{code}\n{again}\n{code}", root_of(folder).parent)
    assert (done.stdout, done.returncode) == ("linear_ss\n" * 2, 0), done.stderr
    left = [path.name for path in folder.rglob("*.pyc")]
    assert all(name.startswith("__init__.") for name in left)
    cached(folder, checked=True)
    done = run(code, root_of(folder).parent)
    assert "ArtifactError" in done.stderr
    assert "decode" in done.stderr
    assert done.returncode == 1


def test_a_name_that_the_manifest_does_not_list_is_not_looked_for(folder: Path) -> None:
    decoder = api.load(root_of(folder))
    package = decoder.__module__.rpartition(".")[0]
    (folder / "late.py").write_text(EVIL)
    with pytest.raises(ModuleNotFoundError, match="late is no module of the artifact"):
        importlib.import_module(f"{package}.late")


def test_code_that_does_not_run_is_an_error_in_words(tmp_path: Path) -> None:
    import hashlib
    import json

    out = api.compile("ar", tmp_path / "a")
    manifest = json.loads((out / "manifest.json").read_bytes())
    for code in ("def f(:\n", "raise OSError('no')\n", "Decoder = 1\n", "\0", "x = 1\n"):
        (out / "decode.py").write_text(code)
        manifest["files"]["decode.py"] = hashlib.sha256(code.encode()).hexdigest()
        (out / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match=r"does not run|defines no Decoder"):
            api.load(out)


@pytest.mark.parametrize(
    "files", [{"../x.py": ""}, {"/x.py": ""}, {"a/b/c.py": ""}, {"": ""}, {"a\nb": ""}, {"a": 1}]
)
def test_a_manifest_cannot_name_what_lies_elsewhere(tmp_path: Path, files: object) -> None:
    import json

    out = api.compile("ar", tmp_path / "a")
    manifest = json.loads((out / "manifest.json").read_bytes())
    (out / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged: it lacks"):
        api.load(out)


def test_two_versions_of_one_folder_do_not_share_modules(tmp_path: Path) -> None:
    out = api.compile("linear_ss", tmp_path / "a", {"block_length": 4})
    first = api.load(out)
    api.compile("linear_ss", out, {"block_length": 8})
    second = api.load(out)
    assert (first.SCRATCH_ROWS, second.SCRATCH_ROWS) == (4, 8)
    assert first.__module__ != second.__module__
