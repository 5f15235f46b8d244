"""An artifact folder is written whole or not at all, and checked before it is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import every_fault

from nldc import api
from nldc.codegen.folder import write_folder
from nldc.runtime.errors import ArtifactError


def test_an_artifact_is_replaced_by_a_new_one_and_nothing_is_left_beside_it(
    tmp_path: Path,
) -> None:
    out = api.compile("linear_ss", tmp_path / "a", {"block_length": 4})
    api.compile("linear_ss", out, {"block_length": 8})
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["params"] == {"block_length": 8}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not empty and holds no artifact"):
        api.compile("ar", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("manifest", ['{"name": "an extension"}', "[]", "{", '{"compiler": 1}'])
def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    (tmp_path / "popup.js").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not empty and holds no artifact"):
        api.compile("ar", tmp_path)
    assert (tmp_path / "popup.js").exists()


def test_what_was_put_beside_the_generated_files_is_not_lost(tmp_path: Path) -> None:
    out = api.compile("ar", tmp_path / "a")
    (out / "notes.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"notes\.txt is no part of the artifact"):
        api.compile("ar", out)
    assert (out / "notes.txt").exists()
    (out / "notes.txt").unlink()
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "decode.pyc").touch()
    api.compile("ar", out)


def foreign(**changes: object) -> str:
    """A manifest that has every key of an artifact's, of files that are none of ours."""
    files = {"__init__.py": "0" * 64, "decode.py": "1" * 64, "popup.js": "2" * 64}
    whole = {"abi": 1, "compiler": "x", "strategy": "s", "guarantee": {}, "files": files}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    "manifest",
    [
        json.dumps({"compiler": "esbuild", "files": ["popup.js"]}),
        json.dumps({"compiler": "esbuild", "files": {"popup.js": "0" * 64}}),
        foreign(),
        foreign(files={"popup.js": "0" * 64}),
        foreign(files=["__init__.py", "decode.py"]),
    ],
)
def test_a_manifest_with_the_keys_of_ours_makes_no_artifact(tmp_path: Path, manifest: str) -> None:
    texts = {"manifest.json": manifest, "popup.js": "mine", "__init__.py": "a", "decode.py": "b"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="not empty and holds no artifact"):
        api.compile("ar", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def notes_beside_the_bytecode(out: Path) -> Path:
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "notes.txt").write_text("years of work", encoding="utf-8")
    return out / "__pycache__" / "notes.txt"


def a_link(out: Path) -> Path:
    (out / "data").symlink_to(out.parent)
    return out / "data"


def a_link_among_the_bytecode(out: Path) -> Path:
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "x.pyc").symlink_to(out.parent)
    return out / "__pycache__" / "x.pyc"


def a_link_for_the_bytecode(out: Path) -> Path:
    (out / "__pycache__").symlink_to(out.parent)
    return out / "__pycache__"


def an_empty_folder(out: Path) -> Path:
    (out / "results").mkdir()
    return out / "results"


def a_folder_among_the_bytecode(out: Path) -> Path:
    (out / "__pycache__" / "x.pyc").mkdir(parents=True)
    return out / "__pycache__" / "x.pyc"


@pytest.mark.parametrize(
    "put",
    [
        notes_beside_the_bytecode,
        a_link,
        a_link_among_the_bytecode,
        a_link_for_the_bytecode,
        an_empty_folder,
        a_folder_among_the_bytecode,
    ],
)
@pytest.mark.parametrize("files", [["ar"], ["ar", "linear_ss"]])
def test_nothing_that_was_not_generated_is_lost(
    tmp_path: Path, files: list[str], put: Callable[[Path], Path]
) -> None:
    out = api.compile(files, tmp_path / "a")
    place = put(out / "ar" if len(files) > 1 else out)
    with pytest.raises(ArtifactError, match="is no part of the artifact") as caught:
        api.compile(files, out)
    assert str(place) in caught.value.message
    assert os.path.lexists(place)


def test_a_link_is_not_replaced(tmp_path: Path) -> None:
    out = api.compile("ar", tmp_path / "a")
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(ArtifactError, match=f"{name} is a link, which would be replaced"):
            api.compile("linear_ss", tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert api.load(out).STRATEGY == "ar"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_fault_anywhere_leaves_the_old_artifact_or_the_new_one(tmp_path: Path) -> None:
    checked = api.check_together(["ar"])
    out = api.write(checked, tmp_path / "a")
    old = {path.name: path.read_bytes() for path in out.iterdir()}
    texts = {**{name: data.decode() for name, data in old.items()}, "decode.py": "new = 1\n"}
    new = {name: text.encode() for name, text in texts.items()}
    count = 0
    for way, number, raised in every_fault(lambda: write_folder(out, texts)):
        found = {path.name: path.read_bytes() for path in out.iterdir()}
        assert found in (old, new), (way, number, raised)
        assert isinstance(raised, ArtifactError | KeyboardInterrupt | None), (way, number, raised)
        write_folder(out, {name: data.decode() for name, data in old.items()})
        count += 1
    assert count > 40


def test_a_name_that_no_folder_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*: file name too long"):
        api.compile("ar", tmp_path / ("a" * 300))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is a file"):
        api.compile("ar", tmp_path / "file")
    with pytest.raises(ArtifactError, match="cannot write"):
        api.compile("ar", tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot write"):
        api.compile("ar", tmp_path / "a")


def test_an_edited_file_is_named(tmp_path: Path) -> None:
    out = api.compile("ar", tmp_path / "a")
    with (out / "decode.py").open("a", encoding="utf-8") as file:
        file.write("# faster\n")
    with pytest.raises(ArtifactError, match=r"decode\.py was edited by hand"):
        api.load(out)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    out = api.compile("ar", tmp_path / "a")
    (out / "patterns.py").unlink()
    with pytest.raises(ArtifactError, match=r"patterns\.py is missing"):
        api.load(out)


def test_an_artifact_of_another_compiler_is_refused(tmp_path: Path) -> None:
    out = api.compile("ar", tmp_path / "a")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    manifest["compiler"] = "99.0"
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"was compiled by nldc 99\.0"):
        api.load(out)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {"../x": ""}}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    out = api.compile("ar", tmp_path / "a")
    (out / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        api.load(out)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_an_artifact_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"no folder|holds no artifact"):
        api.load(tmp_path / name)
