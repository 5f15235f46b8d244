"""What a strategy may reach: files below its folder, the library, packages; few, and finite."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.render import render_text
from nldc.reuse import load, parse
from nldc.reuse.reach import MAX_CHAIN, MAX_FILES
from nldc.source import MAX_BYTES
from tests.reuse.files import FRAGMENTS, said_of, written

SECRET = "nldc: 1\nname: secret\nsummary: what nobody else may read\n"


def extending(what: str, name: str = "v") -> str:
    return f"nldc: 1\nname: {name}\nextends: {what}\n"


@pytest.mark.parametrize(
    "named",
    [
        "../secret.yaml",
        "lib/../../secret.yaml",
        "lib/../own.yaml",
        "/etc/secret.yaml",
        "~/secret.yaml",
        '"..\\\\secret.yaml"',
        "file:///etc/secret.yaml",
        "C:/secret.yaml",
        "https://example.org/a.yaml",
        '"lib/\\tsecret.yaml"',
        "secret",
        "lib",
        "lib/",
        ".",
        "..",
        "own.txt",
        "/dev/zero",
        "os:path",
        "nldc.strategies:linear_ss",
        '""',
        "3",
        "[linear_ss]",
        "null",
        "linear_ss.yaml.yaml",
    ],
)
def test_nothing_outside_is_reached(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "own"
    (tmp_path / "secret.yaml").write_text(SECRET)
    file = written(folder, v=extending(named), own="nldc: 1\n", lib__own="nldc: 1\n")
    (folder / "own.txt").write_text(SECRET)
    with pytest.raises(StrategyError) as caught:
        api.check(file)
    (found,) = caught.value.diagnostics
    assert found.code == "NLD020"
    assert "nobody" not in render_text([found])


@pytest.mark.parametrize("named", ["link.yaml", "folder/secret.yaml"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "own"
    written(tmp_path, secret=SECRET, elsewhere__secret=SECRET)
    file = written(folder, v=extending(named))
    (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (found,) = said_of(file)
    assert found == f"NLD020 `{named}` is a link that leads out of the folder of this file"


def test_a_link_that_stays_inside_is_followed_and_counts_as_its_file(tmp_path: Path) -> None:
    file = written(tmp_path, v=extending("link.yaml"), base=extending("linear_ss", "base"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "base.yaml")
    assert load(file).uses == ("v.yaml extends link.yaml", "link.yaml extends linear_ss")
    (tmp_path / "base.yaml").write_text(extending("v.yaml", "base"))
    assert said_of(file) == ["NLD021 `v.yaml` leads back to itself"]
    (tmp_path / "base.yaml").unlink()
    assert said_of(file)[0].startswith("NLD020 there is no file")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe", "folder"):
        (found,) = said_of(written(tmp_path, v=extending(f"{name}.yaml")))
        assert found == f"NLD020 `{tmp_path / name}.yaml` is no file"


def test_a_file_below_reaches_below_its_own_folder_only(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        v=extending("lib/a.yaml"),
        lib__a=extending("../base.yaml", "a"),
        base=extending("linear_ss", "base"),
    )
    (found,) = said_of(file)
    assert found == "NLD020 `../base.yaml` leads out of the folder of this file"


def test_what_is_given_as_text_has_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, base=extending("linear_ss", "base"), text=FRAGMENTS)
    (found,) = said_of(extending("base.yaml"))
    assert found == "NLD020 there is no folder for `base.yaml`: this strategy was given as text"
    assert said_of(extending("linear_ss")) == []
    (found,) = said_of(
        extending("linear_ss")
        + "step: {drafted: {include: text.yaml#confident, with: {rows: block}}}"
    )
    assert found.startswith("NLD020 there is no folder")


def test_files_in_a_circle_are_refused(tmp_path: Path) -> None:
    a, b, c = (extending(name) for name in ("b.yaml", "c.yaml", "b.yaml"))
    (found,) = said_of(written(tmp_path, a=a, b=b, c=c))
    assert found == "NLD021 `b.yaml` leads back to itself"


def test_files_in_a_row_and_files_in_all_are_bounded(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(MAX_CHAIN + 1)]
    row = {
        name: extending(f"{after}.yaml", name)
        for name, after in zip(names, [*names[1:], "x"], strict=True)
    }
    (found,) = said_of(written(tmp_path, **row))
    assert found == f"NLD021 more than {MAX_CHAIN} files extend or include one another in a row"
    row[names[MAX_CHAIN - 2]] = extending("linear_ss", "last")
    assert said_of(written(tmp_path, **row)) == []
    many = "".join(
        f"  n{number}: {{include: p{number}.yaml#confident, with: {{rows: block}}}}\n"
        for number in range(MAX_FILES)
    )
    parts = {f"p{number}": FRAGMENTS for number in range(MAX_FILES)}
    found = said_of(written(tmp_path, v=f"{extending('linear_ss')}step:\n{many}", **parts))[0]
    assert found == f"NLD021 one strategy is put together of more than {MAX_FILES} files"


def test_files_together_are_no_larger_than_one_may_be(tmp_path: Path) -> None:
    filling = "# " + "x" * (MAX_BYTES // 2) + "\n"
    base = extending("linear_ss", "base") + filling
    file = written(tmp_path, v=extending("base.yaml") + filling, base=base)
    assert said_of(file) == [f"NLD006 together the files are larger than {MAX_BYTES // 1024} KiB"]
    file.write_text(extending("base.yaml"))
    assert said_of(file) == []
    (tmp_path / "base.yaml").write_text(filling * 3)
    (found,) = said_of(file)
    assert found == f"NLD006 `{tmp_path / 'base.yaml'}` is larger than {MAX_BYTES // 1024} KiB"


def doubling(levels: int, times: int) -> str:
    """Fragments each of which includes the one before several times."""
    text = "nldc: 1\nname: bomb\nextends: linear_ss\nfragments:\n"
    text += "  f0: {takes: [rows], nodes: {a: {op: sample, logits: rows}}, yields: a}\n"
    for level in range(1, levels):
        nodes = ", ".join(
            f"n{n}: {{include: '#f{level - 1}', with: {{rows: rows}}}}" for n in range(times)
        )
        text += f"  f{level}: {{takes: [rows], nodes: {{{nodes}}}, yields: n0}}\n"
    return text + f"step: {{bomb: {{include: '#f{levels - 1}', with: {{rows: checked}}}}}}\n"


def test_fragments_of_fragments_do_not_grow_without_end() -> None:
    began = time.process_time()
    found = said_of(doubling(8, 60))
    assert time.process_time() - began < 20
    assert any(each.startswith(("NLD006", "NLD021")) for each in found)
    assert any("deep" in each for each in said_of(doubling(10, 1)))


def test_a_file_of_many_fragments_is_read_at_once() -> None:
    text = "nldc: 1\nname: many\nextends: ar\nfragments:\n"
    for n in range(400):
        nodes = (
            "{a: {op: sample, logits: rows}, b: {op: join, parts: [a]}, c: {op: join, parts: [b]}}"
        )
        text += f"  f{n}: {{takes: [rows], nodes: {nodes}, yields: c}}\n"
    began = time.process_time()
    assert parse(text).data["name"] == "many"
    assert time.process_time() - began < 5


def test_arguments_of_arguments_do_not_grow_without_end() -> None:
    text = "nldc: 1\nname: bomb\nextends: linear_ss\nfragments:\n"
    n = "params: {n: {type: int, default: 1, min: 0, max: 9}}, takes: [rows]"
    text += f"  f0: {{{n}, nodes: {{a: {{op: sample, logits: rows, pad_to: n}}}}, yields: a}}\n"
    for level in range(1, 8):
        given = "'" + " + ".join(["n"] * 200) + "'"
        include = f"include: '#f{level - 1}', with: {{rows: rows, n: {given}}}"
        text += f"  f{level}: {{{n}, nodes: {{a: {{{include}}}}}, yields: a}}\n"
    text += "step: {bomb: {include: '#f7', with: {rows: checked, n: block_length}}}\n"
    began = time.process_time()
    assert any("longer than 2000 characters" in each for each in said_of(text))
    assert time.process_time() - began < 10


def test_a_fragment_that_includes_itself_is_refused() -> None:
    text = doubling(3, 1).replace("a: {op: sample, logits: rows}",
                                  "a: {include: '#f2', with: {rows: rows}}")  # fmt: skip
    assert said_of(text) == ["NLD021 the fragment `f2` includes itself"]


def test_reading_runs_nothing_and_keeps_names_out_of_comments(tmp_path: Path) -> None:
    file = tmp_path / "a\nname: other.yaml"
    file.write_text(extending("linear_ss"))
    out = api.compile(file, tmp_path / "out", certify=False)
    assert parse((out / "strategy.yaml").read_text("utf-8")).data == load(file).data
