"""Strategies of installed packages are found by what is written about them, and nothing runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nldc import api, packages
from nldc.cli import cli
from nldc.diagnostics import StrategyError
from nldc.reuse import load
from tests.reuse.files import FRAGMENTS, said_of, written

FAST = "nldc: 1\nname: fast\nsummary: Half a block.\nextends: linear_ss\n"
FAST += "params: {block_length: {default: 8}}\n"
RUNS = "raise SystemExit('this package must not run')\n"


def installed(site: Path, name: str, value: str, **files: str) -> Path:
    """Write a package as an installer would: its files, and what it declares."""
    folder = site / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(RUNS)
    written(folder / "strategies", **files)
    (folder / "strategies" / "__init__.py").write_text(RUNS)
    about = site / f"{name}_lib-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-lib\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[nldc.strategies]\n{name} = {value}\n")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: `acme` declares its strategies."""
    site = tmp_path / "site"
    files = {
        "fast": FAST,
        "faster": FAST.replace("name: fast", "name: faster").replace("linear_ss", "fast.yaml"),
        "broken": "nldc: 1\nname: broken\nextends: nowhere\n",
        "parts__shared": FRAGMENTS,
        "parted": FAST.replace("name: fast", "name: parted")
        + "step: {drafted: {include: parts/shared.yaml#confident, with: {rows: block}}}\n",
    }
    installed(site, "acme", "acme.strategies", **files)
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.mark.usefixtures("site")
def test_a_packages_strategy_is_checked_compiled_and_explained_by_its_name(tmp_path: Path) -> None:
    run = CliRunner()
    checked = run.invoke(cli, ["check", "acme:fast"])
    assert "acme:fast: fast is fine; guarantee: exact (proved)" in checked.output
    out = str(tmp_path / "out")
    compiled = run.invoke(cli, ["compile", "acme:fast", "-o", out, "--no-certify"])
    assert compiled.exit_code == 0, compiled.output
    explained = run.invoke(cli, ["explain", "acme:faster"]).output
    assert "faster.yaml extends fast.yaml\nfast.yaml extends linear_ss\n" in explained
    assert run.invoke(cli, ["explain", "--flat", "acme:fast"]).output.count("default: 8") == 1
    told = run.invoke(cli, ["diff", "linear_ss", "acme:fast"]).output
    assert "param.block_length  default" in told
    assert "acme" not in sys.modules


@pytest.mark.usefixtures("site")
def test_packages_stand_in_the_list_of_strategies() -> None:
    listed = CliRunner().invoke(cli, ["strategies"]).output.splitlines()
    rows = {line.split()[0]: line for line in listed}
    assert "exact (proved)" in rows["acme:fast"]
    assert "Half a block." in rows["acme:fast"]
    assert "refused" in rows["acme:broken"]
    assert "acme:shared" not in rows


@pytest.mark.usefixtures("site")
def test_a_file_or_a_text_may_extend_a_packages_strategy_or_include_its_fragment(
    tmp_path: Path,
) -> None:
    text = "nldc: 1\nname: mine\nextends: acme:faster\n"
    source = load(written(tmp_path, mine=text))
    assert source.uses == (
        "mine.yaml extends acme:faster",
        "acme:faster extends acme:fast.yaml",
        "acme:fast.yaml extends linear_ss",
    )
    assert said_of(text) == []
    assert said_of("nldc: 1\nname: mine\nextends: acme:parted\n") == []


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("acme:slow", "the package `acme` has no strategy `slow`"),
        ("acmee:fast", "no installed package declares strategies as `acmee`"),
        ("acme:parts", "the package `acme` has no strategy `parts`"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_no_package_has_is_said(named: str, said: str) -> None:
    with pytest.raises(StrategyError) as caught:
        api.check(named)
    assert caught.value.diagnostics[0].message == said
    assert said_of(f"nldc: 1\nname: mine\nextends: {named}\n") == [f"NLD020 {said}"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("acme.strategies:main", "does not name a folder of its package"),
        ("../../etc", "does not name a folder of its package"),
        ("acme.nothing", "is not there"),
        ("os", "is not there"),
    ],
)
def test_a_package_that_declares_no_folder_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    installed(tmp_path, "odd", value, fast=FAST)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(packages.PackageError) as caught:
        packages.find("odd", "fast")
    assert said in str(caught.value)
    assert "odd" not in packages.packages()


def test_two_packages_of_one_name_are_refused(site: Path) -> None:
    installed(site, "other", "other.strategies", fast=FAST)
    about = site / "other_lib-1.0.dist-info" / "entry_points.txt"
    about.write_text("[nldc.strategies]\nacme = other.strategies\n")
    packages._found.cache_clear()
    (found,) = said_of("nldc: 1\nname: mine\nextends: acme:fast\n")
    assert found == "NLD020 several packages declare strategies as `acme`"


def test_an_editable_installation_is_found_where_its_files_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = installed(tmp_path / "site", "edited", "edited.strategies", fast=FAST)
    (tmp_path / "work").mkdir()
    folder.rename(tmp_path / "work" / "edited")
    for place in ("site", "work"):
        monkeypatch.syspath_prepend(str(tmp_path / place))
    assert packages.find("edited", "fast").parent == tmp_path / "work" / "edited" / "strategies"
    assert "edited" not in sys.modules


def test_a_file_of_that_name_goes_first(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("acme:fast").write_text(FAST)
    assert api.find("acme:fast") == Path("acme:fast")
    Path("acme:fast").unlink()
    assert api.find("acme:fast") == site / "acme" / "strategies" / "fast.yaml"
    assert api.split_preset("acme:fast@vllm") == ("acme:fast", "vllm")
