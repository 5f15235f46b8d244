"""An artifact is built of files of any bytes, and closed by a manifest that knows each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from nldc import __version__, api
from nldc.codegen.artifact import Builder
from nldc.codegen.folder import write_folder
from nldc.diagnostics import InternalError
from nldc.runtime.abi import ABI_VERSION, MANIFEST
from nldc.runtime.artifact import read_artifact
from nldc.runtime.errors import ArtifactError

BINARY = bytes(range(256)) + b"\r\n\x7fELF\x00"


def rebuilt(*, inside: str = "") -> dict[str, bytes]:
    """Return the artifact of `ar`, or of two strategies, with a binary file more."""
    names = ["ar", "linear_ss"] if inside else ["ar"]
    files = api.generate([api.check(name) for name in names])
    builder = Builder()
    for name, content in files.items():
        if name != MANIFEST:
            builder.add(name, content)
    builder.add(f"{inside}attention.cubin", BINARY)
    manifest = json.loads(files[MANIFEST])
    del manifest["files"]
    return builder.seal(manifest)


@pytest.mark.parametrize("inside", ["", "ar/"])
def test_an_artifact_with_a_binary_file_loads_and_gives_its_bytes_back(
    inside: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "out", rebuilt(inside=inside))
    assert read_artifact(folder).files[f"{inside}attention.cubin"] == BINARY
    name = "ar+linear_ss" if inside else "ar"
    assert name == api.load(folder).STRATEGY
    # It is replaced as an artifact, and a binary file that was edited is found.
    write_folder(folder, rebuilt(inside=inside))
    (folder / f"{inside}attention.cubin").write_bytes(BINARY[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match=r"attention\.cubin was edited"):
        api.load(folder)


def test_the_manifest_has_the_digest_of_every_file() -> None:
    builder = Builder()
    builder.add("b.bin", BINARY)
    builder.add("a.txt", "é\n")
    builder.add_data("c.json", {"é": 1})
    files = builder.seal({"abi": ABI_VERSION, "compiler": __version__})
    manifest = json.loads(files[MANIFEST])
    assert list(manifest) == ["abi", "compiler", "files"]
    assert manifest["files"] == {
        name: hashlib.sha256(files[name]).hexdigest() for name in ("a.txt", "b.bin", "c.json")
    }
    assert (files["a.txt"], files["b.bin"]) == ("é\n".encode(), BINARY)
    assert files["c.json"].isascii()


def test_nothing_is_added_to_an_artifact_that_is_sealed() -> None:
    builder = Builder()
    builder.add("a.txt", "a")
    files = builder.seal({})
    for late in (lambda: builder.add("b.txt", "b"), lambda: builder.seal({})):
        with pytest.raises(InternalError, match="sealed"):
            late()
    assert set(files) == {"a.txt", MANIFEST}


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/b/c", "", ".hidden", "a\\b", "a b", MANIFEST, "é.txt"]
)
def test_a_file_has_a_name_that_the_loader_takes(name: str) -> None:
    with pytest.raises(InternalError, match="no name of an artifact's file"):
        Builder().add(name, b"")


def test_no_two_files_have_names_that_differ_by_case_alone() -> None:
    builder = Builder()
    builder.add("Kernel.bin", b"")
    with pytest.raises(InternalError, match="two files"):
        builder.add("kernel.bin", b"")
