"""Figures of devices: those that come with the package, and those of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nldc.cost.device import load_device, parse_device, shipped
from nldc.runtime.errors import ProfileError

GOOD: dict[str, Any] = {
    "name": "mine",
    "memory": 1e12,
    "flops": {"bfloat16": 2e14},
    "sms": 64,
    "launch_us": 10,
    "boundary_us": 1.5,
    "host_wait_us": 0,
}


def test_devices_come_with_the_package_and_an_h200_reads_fastest() -> None:
    devices = {name: load_device(name) for name in shipped()}
    assert list(devices) == ["a100", "cpu", "h100", "h200"]
    assert all(device.name == name for name, device in devices.items())
    assert devices["a100"].memory < devices["h100"].memory < devices["h200"].memory
    assert devices["h100"].peak("bfloat16") == devices["h200"].peak("bfloat16")


def test_every_figure_of_a_shipped_device_has_its_source_beside_it() -> None:
    for path in shipped().values():
        lines = path.read_text("utf-8").splitlines()
        rates = {"bfloat16", "float32"} & set(load_device(path).flops)
        for key in ("memory", *sorted(rates), "sms"):
            (place,) = (n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
            above = [line.strip() for line in lines[:place]]
            assert key == "sms" or above[-1].startswith("#"), f"{path.name}: {key}"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_may_be_yaml_or_json(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"device.{suffix}"
    path.write_text(json.dumps(GOOD))
    assert load_device(path) == parse_device(GOOD, "file")


def test_a_number_that_yaml_takes_for_a_text_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    text = "\n".join(f"{key}: {value}" for key, value in GOOD.items() if key != "flops")
    path.write_text(text.replace("1000000000000.0", "1e12") + "\nflops: {bfloat16: 2e14}\n")
    assert load_device(path) == parse_device(GOOD, "file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory": None}, "lacks `memory`"),
        ({"memory": 0}, "memory is 0"),
        ({"memory": True}, "memory is True"),
        ({"memory": "fast"}, "memory is 'fast'"),
        ({"memory": float("nan")}, "memory is nan"),
        ({"memory": [1]}, "memory is [1]"),
        ({"sms": 1.5}, "sms is 1.5"),
        ({"launch_us": -1}, "launch_us is -1"),
        ({"flops": 2e14}, "flops is"),
        ({"flops": {"int3": 1e12}}, "flops is"),
        ({"flops": {"bfloat16": "x"}}, "flops.bfloat16 is 'x'"),
        ({"name": ""}, "name is ''"),
        ({"name": "a\x1b"}, "name is"),
        ({"memmory": 1}, "unknown figure 'memmory'"),
    ],
)
def test_a_figure_that_is_none_is_refused_by_its_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError) as refused:
        parse_device(GOOD | change, "file")
    assert said in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("text", ["- 1\n", "{", "!!python/object:os.system {}\n", ""])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError):
        load_device(path)


def test_a_misspelt_device_is_recognised_and_a_missing_rate_named() -> None:
    with pytest.raises(ProfileError) as refused:
        load_device("h10")
    assert refused.value.hint == "did you mean h100?"
    with pytest.raises(ProfileError, match="no flops for float32"):
        parse_device(GOOD, "file").peak("float32")


BOMB = "name: [&a [x, x, x, x], " + ", ".join(
    f"&{name} [*{before}, *{before}, *{before}, *{before}]"
    for before, name in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{BOMB}]", "device.yaml:1: aliases are not read"),
        (f"sms: 0x{'F' * 9000}", "sms is a number of thousands of digits"),
        (f"name: 0x{'F' * 9000}", "name is a number of thousands of digits"),
        (f"flops: [0x{'F' * 9000}]", "flops is a number of thousands of digits"),
        ("memory: 5e-324", "memory is '5e-324'"),
        ("flops: {bfloat16: 1e-300}", "flops.bfloat16 is '1e-300'"),
        ("memory: 1e9\nmemory: 2e9", "device.yaml:9: `memory` is given twice"),
        ("flops: {bfloat16: 1e9, bfloat16: 2e9}", "`bfloat16` is given twice"),
    ],
)
def test_hostile_figures_are_refused_at_once(tmp_path: Path, text: str, said: str) -> None:
    key = text.partition(":")[0]
    lines = [f"{name}: {json.dumps(value)}" for name, value in GOOD.items() if name != key]
    path = tmp_path / "device.yaml"
    path.write_text("\n".join([text, *lines] if "twice" not in said else [*lines, "", text]))
    with pytest.raises(ProfileError) as caught:
        load_device(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
