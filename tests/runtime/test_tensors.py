"""Safetensors files: every oddity of a header is one error, and what is read is a copy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nldc.runtime.checkpoint.tensors import CHUNK, TensorFile
from nldc.runtime.errors import CheckpointError

CPU = torch.device("cpu")


def write(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"t": entry(shape=5)}, "describes the tensor `t` wrongly"),
        ({"t": entry(shape=[-2])}, "describes the tensor `t` wrongly"),
        ({"t": entry(shape=[True, 2])}, "describes the tensor `t` wrongly"),
        ({"t": entry(shape=[2.0])}, "describes the tensor `t` wrongly"),
        ({"t": entry(shape=[2**70])}, "describes the tensor `t` wrongly"),
        ({"t": entry(shape=[3])}, "describes the tensor `t` wrongly"),
        ({"t": entry(data_offsets=[8, 0])}, "describes the tensor `t` wrongly"),
        ({"t": entry(data_offsets=[0])}, "describes the tensor `t` wrongly"),
        ({"t": entry(data_offsets=None)}, "describes the tensor `t` wrongly"),
        (b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}', "`t` wrongly"),
        ({"t": entry(dtype=None)}, "describes the tensor `t` wrongly"),
        ({"t": []}, "describes the tensor `t` wrongly"),
        ({"t": entry(), "u": entry()}, "tensor `u` overlaps another"),
        ({"t": entry(data_offsets=[8, 16])}, "tensor `t` does not follow the one before"),
        ({"t": entry(), "u": entry(data_offsets=[8, 800], shape=[198])}, "ends at byte"),
        ({}, "16 bytes at its end are no tensor's"),
        (b'{"t": ', "its header is no JSON"),
        (b"{" + b"[" * 100_000, "its header is no JSON"),
        (b"[]", "is no safetensors file"),
    ],
)
def test_a_header_that_makes_no_sense_is_one_error(
    header: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", header, bytes(16))
    with pytest.raises(CheckpointError) as caught:
        TensorFile.open(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match="is no safetensors file") as caught:
        TensorFile.open(path)
    assert caught.value.hint == "run git lfs pull"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CheckpointError, match="is no file"):
            TensorFile.open(path)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_values_are_those_of_the_file_in_the_dtype_that_is_wanted(
    stored: torch.dtype, wanted: torch.dtype, tmp_path: Path
) -> None:
    tensors = {
        "long": torch.randn(3, CHUNK // 2 + 5).to(stored),
        "scalar": torch.tensor(1.5, dtype=stored),
        "none": torch.empty(0, 4, dtype=stored),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    file = TensorFile.open(tmp_path / "x.safetensors")
    for name, values in tensors.items():
        assert torch.equal(file.read(name, wanted, CPU), values.to(wanted))
    out = torch.empty(4, CHUNK // 2 + 5, dtype=wanted)
    file.read("long", wanted, CPU, out[1:])
    assert torch.equal(out[1:], tensors["long"].to(wanted))


def test_tensors_that_were_read_do_not_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"t": torch.arange(1000.0)}, path)
    values = TensorFile.open(path).read("t", torch.float32, CPU)
    with path.open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
        file.truncate(10)
    assert torch.equal(values, torch.arange(1000.0))


def test_a_file_that_changes_between_two_reads_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"t": torch.arange(1000.0)}, path)
    file = TensorFile.open(path)
    save_file({"t": torch.arange(1001.0)}, path)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        file.read("t", torch.float32, CPU)


def test_a_tensor_that_nobody_reads_may_be_of_anything(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(3), "b": torch.ones(5, dtype=torch.int8)}, tmp_path / "x.safetensors"
    )
    file = TensorFile.open(tmp_path / "x.safetensors")
    assert torch.equal(file.read("a", torch.float32, CPU), torch.ones(3))
    with pytest.raises(CheckpointError, match="`b` holds I8"):
        file.read("b", torch.float32, CPU)
