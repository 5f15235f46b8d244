"""Outputs are whole or not there, and what was there is never lost, wherever it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from faults import every_fault

from nldc.runtime.files import put_files, put_folder, write_whole

pytestmark = pytest.mark.filterwarnings(  # a file whose opening was interrupted
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def restore(folder: Path, content: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(data)


def fill(folder: Path) -> None:
    (folder / "a").write_text("new")
    (folder / "b").write_text("new")


@pytest.mark.parametrize("there", [True, False])
def test_a_fault_anywhere_leaves_the_old_folder_or_the_new_one(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "held" / "out"
    old = {"out": None, "out/a": b"old", "out/sub": None, "out/sub/c": b"old"} if there else {}
    new = {"out": None, "out/a": b"new", "out/b": b"new"}
    restore(out.parent, old)
    count = 0
    for way, number, raised in every_fault(lambda: put_folder(out, fill, ("a", "sub/c"))):
        found = {name: data for name, data in tree(out.parent).items() if not name.startswith(".")}
        assert found in (old, new), (way, number, raised)
        restore(out.parent, old)
        count += 1
    assert count > 20
    assert tree(out.parent) == new


def test_a_fault_anywhere_leaves_all_of_the_old_files_or_all_of_the_new(tmp_path: Path) -> None:
    out = tmp_path / "held"
    old = {"a": b"old", "stale": b"old", "mine": b"mine", "folder": None, "folder/x": b"mine"}
    new = {"a": b"new", "b": b"new", "mine": b"mine", "folder": None, "folder/x": b"mine"}
    restore(out, old)
    count = 0
    for way, number, raised in every_fault(lambda: put_files(out, fill, ("stale",))):
        found = {name: data for name, data in tree(out).items() if not name.startswith(".")}
        assert found in (old, new), (way, number, raised)
        restore(out, old)
        count += 1
    assert count > 20
    assert tree(out) == new


def test_a_fault_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    out = tmp_path / "held"
    old: dict[str, bytes | None] = {"x": b"old"}
    restore(out, old)
    for way, number, raised in every_fault(
        lambda: write_whole(out / "x", lambda path: path.write_text("new"))
    ):
        found = {name: data for name, data in tree(out).items() if not name.startswith(".")}
        assert found in (old, {"x": b"new"}), (way, number, raised)
        restore(out, old)
    assert tree(out) == {"x": b"new"}
    assert (out / "x").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_put_into_a_folder_while_it_is_replaced_is_kept_and_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")

    def fill_slowly(folder: Path) -> None:
        fill(folder)
        (out / "thesis").write_text("years of work")

    with pytest.raises(OSError, match="something new was in it, which now lies in"):
        put_folder(out, fill_slowly, ("a",))
    (kept,) = tmp_path.rglob("thesis")
    assert kept.read_text() == "years of work"
    assert (out / "b").exists()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_files_are_not_put_in_place_of_links_folders_and_pipes(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "b"
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    for put in (
        lambda: put_files(tmp_path, fill),
        lambda: write_whole(place, lambda path: path.write_text("new")),
    ):
        with pytest.raises(OSError, match="it is no plain file"):
            put()
        assert list(tmp_path.iterdir()) == [place]
        assert (place.is_symlink(), place.is_dir(), place.is_fifo()) == (
            kind == "link", kind == "folder", kind == "pipe"
        )  # fmt: skip


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_whole(path, lambda fresh: fresh.write_text("new"))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "new"
