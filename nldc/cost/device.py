"""The figures of a GPU that times follow from, read from a file; some come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from nldc.diagnostics import nearest
from nldc.runtime.errors import ProfileError

DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""What weights are computed in, and the bytes of a number."""
MOST_BYTES = 16 << 10
LARGEST = 1e18


@dataclass(frozen=True)
class Device:
    """One GPU and the host that feeds it, or a processor.

    `memory` is the best rate of reading in bytes a second; `flops` the best rate of matrix products
    by dtype, in operations a second; `sms` its multiprocessors. In microseconds: `launch_us` is
    what the host takes to launch one kernel from Python, `boundary_us` what passes between two
    kernels of a graph that depend on each other, `host_wait_us` what passes from the end of the
    device's work until the host has read a result and launched the next kernel.
    """

    name: str
    memory: float
    flops: Mapping[str, float]
    sms: int
    launch_us: float
    boundary_us: float
    host_wait_us: float

    @property
    def usual(self) -> str:
        """What is computed in if nobody says: bfloat16, or the first dtype with figures."""
        return "bfloat16" if "bfloat16" in self.flops else next(iter(self.flops))

    def peak(self, dtype: str) -> float:
        """Return the best rate of matrix products in a dtype.

        Raises:
            ProfileError: the device's figures have none for it.
        """
        if dtype not in self.flops:
            raise ProfileError(
                f"the figures of {self.name} have no flops for {dtype}",
                f"they have {', '.join(self.flops)}",
            )
        return self.flops[dtype]


NUMBERS = {
    "memory": "bytes read a second, as 3.05e12",
    "sms": "how many multiprocessors it has, as 132",
    "launch_us": "microseconds, as 20",
    "boundary_us": "microseconds, as 2",
    "host_wait_us": "microseconds, as 20",
}
KEYS = ("name", "flops", *NUMBERS)


def shipped() -> dict[str, Path]:
    """Return the files of figures that come with the package, by the device's name."""
    folder = Path(str(files("nldc.cost"))) / "devices"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_device(name: str | Path) -> Device:
    """Return the device that is meant: one of those that come with it, or a file (YAML or JSON).

    Raises:
        ProfileError: there is no such device and no such file, or the file has other figures.
    """
    known = shipped()
    path = known.get(str(name), Path(name))
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as problem:
        meant = nearest(str(name), known)
        hint = f"did you mean {meant}?" if meant else f"give a file, or one of {', '.join(known)}"
        reason = (problem.strerror or str(problem)).lower()
        raise ProfileError(f"there is no device `{name}`: {reason}", hint) from None
    if len(text) > MOST_BYTES:
        raise ProfileError(f"{name} is larger than {MOST_BYTES >> 10} KiB", "it holds one device")
    try:
        _refuse_repeats(text, str(name))
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ProfileError(f"{name} is not YAML: {reason}", "see docs/performance.md") from None
    return parse_device(data, str(name))


def _refuse_repeats(text: bytes, origin: str) -> None:
    """Refuse YAML's aliases, of which a few lines can stand for gigabytes, and a key given twice.

    Raises:
        ProfileError: there is one.
        yaml.YAMLError: it is no YAML.
    """
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            line = token.start_mark.line + 1
            raise ProfileError(f"{origin}:{line}: aliases are not read", "write figures out")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    maps = [root, *(value for _, value in root.value)] if isinstance(root, yaml.MappingNode) else []
    for each in maps:
        seen = set()
        for key, _ in each.value if isinstance(each, yaml.MappingNode) else ():
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise ProfileError(f"{origin}:{line}: `{name}` is given twice", "give it once")
            seen.add(name)


def parse_device(data: Any, origin: str) -> Device:
    """Return the device whose figures are in `data`; `origin` names the file.

    Raises:
        ProfileError: a figure is missing, unknown, or of the wrong kind.
    """
    if not isinstance(data, dict):
        raise ProfileError(f"{origin} holds no mapping", f"give {', '.join(KEYS)}")
    for key in data:
        if key not in KEYS:
            meant = nearest(_shown(key).strip("'"), KEYS)
            hint = f"did you mean {meant}?" if meant else f"the figures are {', '.join(KEYS)}"
            raise ProfileError(f"{origin} has an unknown figure {_shown(key)}", hint)
    name = data.get("name")
    if not isinstance(name, str) or not name or len(name) > 64 or not name.isprintable():
        raise ProfileError(f"{origin}: name is {_shown(name)}", "give the device's name")
    numbers = {key: _number(data.get(key), key, origin, hint) for key, hint in NUMBERS.items()}
    flops = data.get("flops")
    if not isinstance(flops, dict) or not flops or not set(flops) <= set(DTYPES):
        hint = f"give operations a second by dtype ({', '.join(DTYPES)}): {{bfloat16: 7.9e14}}"
        raise ProfileError(f"{origin}: flops is {_shown(flops)}", hint)
    hint = "operations a second, as 7.9e14"
    return Device(
        name=name,
        memory=numbers["memory"],
        flops={key: _number(rate, f"flops.{key}", origin, hint) for key, rate in flops.items()},
        sms=int(numbers["sms"]),
        launch_us=numbers["launch_us"],
        boundary_us=numbers["boundary_us"],
        host_wait_us=numbers["host_wait_us"],
    )


def _number(value: Any, key: str, origin: str, hint: str) -> float:
    """Return a number from 1, or from 0 for microseconds; YAML takes 3e12 for a text."""
    if value is None:
        raise ProfileError(f"{origin} lacks `{key}`", f"give {hint}")
    try:
        number = float(value) if isinstance(value, int | float | str) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    is_time = key.endswith("_us")
    fine = (0 if is_time else 1) <= number <= LARGEST
    if isinstance(value, bool) or not fine or (key == "sms" and not number.is_integer()):
        raise ProfileError(f"{origin}: {key} is {_shown(value)}", f"give {hint}")
    return number


def _shown(value: Any) -> str:
    """Return a value as messages show it; Python prints no number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"
