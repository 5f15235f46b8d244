"""`nldc export`: an artifact as a folder that transformers loads; no transformers is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.hf.folder import FUNCTION, README, REQUIREMENTS, export, generating
from nldc.hf.model import config_of
from nldc.runtime.errors import ArtifactError
from nldc.verify import model_folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "two"
    return api.compile(["linear_ss", "ar"], folder, certify=False)


def functions_of(folder: Path) -> dict[str, Any]:
    """Return what the file defines, run as Python runs a module."""
    names: dict[str, Any] = {}
    exec(compile((folder / FUNCTION).read_text("utf-8"), FUNCTION, "exec"), names)
    return names


def test_the_command_writes_the_function_its_requirements_and_a_page(
    artifact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    for _ in range(2):  # what was exported is replaced
        done = CliRunner().invoke(cli, ["export", str(artifact), "-o", str(folder)])
        assert done.exit_code == 0, done.output
        assert done.stdout == f"wrote {folder}\n"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {FUNCTION, REQUIREMENTS, README}
    assert (folder / REQUIREMENTS).read_text().startswith("nldc==")
    assert "- custom_generate" in (folder / README).read_text()


def test_the_function_calls_the_model_s_class_with_the_strategy(
    artifact: Path, tmp_path: Path
) -> None:
    class Model:
        def generate(self, **arguments: Any) -> dict[str, Any]:
            return arguments

    names = functions_of(export(artifact, tmp_path / "shared"))
    model = Model()
    model.generate = None  # type: ignore[method-assign, assignment]
    found = names["generate"]([1, 2], model=model, top_k=3)
    decode = found.pop("custom_generate")
    assert found == {"inputs": [1, 2], "top_k": 3}
    assert list(decode.kind.PARTS) == ["linear_ss", "ar"]
    again = names["generate"]([1], model=model, mask_token_id=7)["custom_generate"]
    assert again.kind is decode.kind
    assert again is names["generate"]([1], model=model, mask_token_id=7)["custom_generate"]
    assert again is not decode


@pytest.mark.parametrize(("kind", "length"), [("llama", None), ("nemotron_labs_diffusion", 32)])
def test_only_a_model_that_fills_blocks_has_a_block_size_unsaid(
    kind: str, length: int | None
) -> None:
    class Config:
        def to_dict(self) -> dict[str, Any]:
            data = json.loads((model_folder(None) / "config.json").read_text("utf-8"))
            del data["block_size"]
            return {**data, "model_type": kind}

    class Model:
        config = Config()

    assert config_of(Model(), 3).block_size == length


def test_an_edited_folder_does_not_run(artifact: Path, tmp_path: Path) -> None:
    files = functions_of(export(artifact, tmp_path / "shared"))["FILES"]
    name = next(name for name in files if name.endswith("decode.py"))
    with pytest.raises(ArtifactError):
        generating({**files, name: files[name] + "\n"})


def test_what_was_not_exported_is_not_replaced(artifact: Path, tmp_path: Path) -> None:
    folder = export(artifact, tmp_path / "shared")
    own = folder / "config.json"
    own.write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json was not exported"):
        export(artifact, folder)
    assert own.exists()
    own.unlink()
    (folder / FUNCTION).write_text("mine = 1\n")
    with pytest.raises(ArtifactError, match="was not exported"):
        export(artifact, folder)
    assert (folder / FUNCTION).read_text() == "mine = 1\n"
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    link.symlink_to(tmp_path / "nowhere")
    for odd in (file, link):
        with pytest.raises(ArtifactError, match="was not exported"):
            export(artifact, odd)
    with pytest.raises(ArtifactError, match="holds no artifact"):
        export(tmp_path / "nothing", tmp_path / "out")
