"""An artifact is used only by its own compiler and only as it was generated; torch-free."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nldc import __version__
from nldc.codegen.folder import write_folder
from nldc.runtime.abi import ABI_VERSION, MANIFEST
from nldc.runtime.artifact import check_artifact
from nldc.runtime.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"decode.py": "x = 1\n", "strategy.yaml": "nldc: 1\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    manifest = {
        "compiler": __version__,
        "abi": ABI_VERSION,
        "strategy": "s",
        "guarantee": {},
        "files": digests,
    }
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_artifact_as_generated_is_accepted_and_its_manifest_returned(folder: Path) -> None:
    assert check_artifact(folder)["strategy"] == "s"


def test_a_file_edited_by_hand_is_named(folder: Path) -> None:
    (folder / "decode.py").write_text("x = 2\n")
    with pytest.raises(ArtifactError, match=r"decode\.py was edited by hand"):
        check_artifact(folder)


def test_the_remedy_for_a_damaged_artifact_can_be_followed(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match=r"remove the folder, or .* into a new one"):
        check_artifact(folder)
    with pytest.raises(ArtifactError, match="choose a new folder"):
        write_folder(folder, {"decode.py": "x = 1\n"})
    assert write_folder(folder.parent / "new", {"decode.py": "x = 1\n"}).is_dir()


def test_another_version_of_the_compiler_or_interface_is_refused(folder: Path) -> None:
    rewrite(folder, compiler="0.0.9")
    with pytest.raises(ArtifactError, match=f"compiled by nldc 0.0.9; this is nldc {__version__}"):
        check_artifact(folder)
    rewrite(folder, compiler=__version__, abi=ABI_VERSION + 1)
    with pytest.raises(ArtifactError, match="this runtime has"):
        check_artifact(folder)


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "strategy.yaml").unlink()
    with pytest.raises(ArtifactError, match=r"strategy\.yaml is missing"):
        check_artifact(folder)
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        check_artifact(folder)
    with pytest.raises(ArtifactError, match=r"holds no artifact"):
        check_artifact(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("[" * 100_000, "is damaged: it is nested too deeply"),
        ('{"compiler": "0", "abi": 1}', "is damaged: it lacks 'files'"),
        ('{"compiler": "0", "abi": 1, "files": {}}', "is damaged: it lacks guarantee, strategy"),
        (
            '{"compiler": 0, "abi": 1, "files": {"\\u0000": 0}, "strategy": 0, "guarantee": 0}',
            "is damaged: it lacks names of files",
        ),
    ],
)
def test_a_manifest_that_is_no_manifest_is_named(folder: Path, manifest: str, message: str) -> None:
    (folder / MANIFEST).write_text(manifest)
    with pytest.raises(ArtifactError) as caught:
        check_artifact(folder)
    assert message in caught.value.message


def test_code_that_the_manifest_does_not_name_is_refused(folder: Path) -> None:
    (folder / "more.py").write_text("")
    with pytest.raises(ArtifactError, match=r"more\.py is not among the files of .*manifest\.json"):
        check_artifact(folder)
    (folder / "more.py").unlink()
    rewrite(folder, files={})
    with pytest.raises(ArtifactError, match=r"decode\.py is not among the files"):
        check_artifact(folder)


def test_a_strategy_file_is_told_from_an_artifact(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"strategy\.yaml is a file; an artifact is a folder"):
        check_artifact(folder / "strategy.yaml")


def test_checking_an_artifact_loads_no_torch() -> None:
    code = (
        "import sys, nldc.runtime, nldc.runtime.abi, nldc.runtime.artifact, nldc.runtime.errors;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_decoding_with_torch_loads_no_triton() -> None:
    code = "import sys, nldc.runtime.decoder; sys.exit('nldc.runtime.kernels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
