"""Where figures come from: a command, what they follow from, and what was kept of them."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
Kind = Literal["cheap", "steady", "timed", "kept"]


@dataclass(frozen=True)
class Source:
    """Figures of one command.

    `kind` is `cheap` (the same every time, in seconds: a test holds them against what the command
    gives now), `steady` (the same every time, in minutes: a test holds the digest of `inputs`),
    `timed` (needs a machine that does nothing else) or `kept` (of another machine or of hours; its
    figures are brought). `inputs` are files, as patterns below the repository. `measure` returns
    plain data; None: they are brought. `where` returns the device and the date of figures that are
    read from a report; `anywhere` says that no device has a part in them.
    """

    name: str
    kind: Kind
    command: str
    inputs: tuple[str, ...]
    measure: Callable[[], Any] | None = None
    where: Callable[[], tuple[str, str]] | None = None
    anywhere: bool = False

    def digest(self) -> str:
        """Return what the inputs are now, in 12 digits.

        Raises:
            ValueError: a pattern finds no file.
        """
        total = sha256()
        for path in self._files():
            total.update(str(path.relative_to(ROOT)).encode() + b"\0")
            total.update(sha256(path.read_bytes()).digest())
        return total.hexdigest()[:12]

    def _files(self) -> Iterator[Path]:
        for pattern in self.inputs:
            found = sorted(path for path in ROOT.glob(pattern) if path.is_file())
            if not found:
                raise ValueError(f"{self.name}: no file is {pattern}")
            yield from found


@dataclass(frozen=True)
class Record:
    """Figures as they were measured: by which command, where, when, and of which inputs."""

    command: str
    device: str
    date: str
    inputs: str
    data: Any

    def said(self) -> str:
        """Return where the figures come from, as the page says it."""
        return f"*From `{self.command}`: {self.device}, {self.date}, inputs `{self.inputs}`.*"


def measured(source: Source) -> Record:
    """Run a source's command here and now.

    Raises:
        ValueError: its figures are brought.
    """
    if source.measure is None:
        raise ValueError(f"{source.name}: run `{source.command}` and bring what it says")
    return recorded(source, json.loads(json.dumps(source.measure())))


def recorded(source: Source, data: Any) -> Record:
    """Return figures of a source as a record: of this device and today, if they are of any."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    if source.where is not None:
        place, date = source.where()
    else:
        place, date = "any machine" if source.anywhere else device(), today
    return Record(source.command, place, date, source.digest(), data)


def bring(source: Source, data: Any) -> None:
    """Keep figures that were measured otherwise."""
    store(source.name, recorded(source, data))


def device() -> str:
    """Return what computes here."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, torch {torch.__version__}"


def load(name: str) -> Record:
    """Return the figures that were kept of a source.

    Raises:
        ValueError: none were.
    """
    path = DATA / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{path.name} is missing: run `python -m benchmarks.report {name}`")
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def store(name: str, record: Record) -> None:
    """Keep figures; those that are the same as before keep their date and device."""
    from nldc.runtime.files import write_whole

    path = DATA / f"{name}.json"
    if path.exists():
        before = load(name)
        if (before.data, before.command, before.inputs) == (
            record.data, record.command, record.inputs,
        ):  # fmt: skip
            return
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
