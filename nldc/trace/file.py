"""The file of a trace: JSON of one object, whose keys are the fields of `document.Trace`.

What is read is what the document says, key by key and kind by kind, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nldc.runtime.errors import TraceError
from nldc.runtime.files import write_whole
from nldc.runtime.json_file import parse_json
from nldc.trace.document import FORMAT, Trace

BEGINNING = '{"format":'
"""How the file of every trace begins."""
MAX_BYTES = 1 << 30
"""The largest file that is read."""
COMPACT: Mapping[str, Any] = {"separators": (",", ":")}
AGAIN = "record it again: nldc run ARTIFACT --trace FILE"
LARGEST = 1 << 53
"""The largest number that is read: what scripts know exactly, too."""
_CALLED = {
    int: "a whole number up to 2**53",
    float: "a number up to 2**53",
    str: "a text",
    bool: "true or false",
}


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace, whole or not at all.

    Raises:
        TraceError: it cannot be written.
    """
    text = text_of(trace)
    try:
        write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise TraceError(f"{path} cannot be written: {reason}", "give another file") from problem


def text_of(trace: Trace) -> str:
    """Return what a trace's file holds."""
    data = json.dumps(as_data(trace), ensure_ascii=False, allow_nan=False, **COMPACT)
    return f"{data}\n"


def as_data(value: Any) -> Any:
    """Return a document, or a part of one, as plain data."""
    if is_dataclass(value):
        return {item.name: as_data(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple | list):
        return [as_data(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): as_data(each) for key, each in value.items()}
    return value


def read_trace(path: str | Path) -> Trace:
    """Return the trace in a file.

    Raises:
        TraceError: there is none, or it is not what a trace has to be; says where.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # its size may say nothing, as that of a pipe or a device
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise TraceError(f"{path} has more than {MAX_BYTES >> 20} MiB", AGAIN)
        data = parse_json(content, once=True)
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise TraceError(f"{path} cannot be read: {reason}", AGAIN) from problem
    except ValueError as problem:
        raise TraceError(f"{path} is no trace: {problem}", AGAIN) from problem
    return parse_trace(data, str(path))


def parse_trace(data: Any, name: str) -> Trace:
    """Return the trace that plain data are, which come from `name`; raises as `read_trace`."""
    if not isinstance(data, dict) or "format" not in data:
        raise TraceError(f"{name} is no trace: it says no format", AGAIN)
    if data["format"] != FORMAT:
        raise TraceError(
            f"{name} has the format {json.dumps(data['format'])[:40]}; this nldc reads {FORMAT}",
            AGAIN,
        )
    try:
        trace: Trace = _read(data, Trace, "")
    except _MisfitError as problem:
        raise TraceError(f"{name} is no trace: {problem}", AGAIN) from None
    problem_ = trace.problem()
    if problem_ is not None:
        raise TraceError(f"{name} is no trace: {' '.join(problem_)}", AGAIN)
    return trace


class _MisfitError(Exception):
    """A value of another kind."""


@cache
def _kinds(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(value: Any, kind: Any, place: str) -> Any:
    """Return a value of a kind of the document, or raise `_MisfitError`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(value, parts, place)
    if origin is Literal:
        if not isinstance(value, str) or value not in parts:
            raise _MisfitError(f"{place} is none of {', '.join(parts)}")
        return value
    if origin is tuple:
        return _tuple(value, parts, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _MisfitError(f"{place} is no object")
        return {key: _read(each, parts[1], f"{place}.{key}"[:200]) for key, each in value.items()}
    if is_dataclass(kind):
        return _object(value, kind, place)
    if kind is object:
        return value
    is_kind = type(value) is kind or (kind is float and type(value) is int)
    if not is_kind or (kind in (int, float) and not -LARGEST <= value <= LARGEST):
        raise _MisfitError(f"{place} is not {_CALLED[kind]}")
    return kind(value)


def _one_of(value: Any, kinds: tuple[Any, ...], place: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    for kind in others[:-1]:
        if type(value) is kind:
            return value
    return _read(value, others[-1], place)


def _tuple(value: Any, kinds: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _MisfitError(f"{place} is no list")
    if kinds[-1] is Ellipsis:
        if kinds[0] is int and all(type(one) is int and abs(one) <= LARGEST for one in value):
            return tuple(value)
        return tuple(_read(each, kinds[0], f"{place}[{n}]") for n, each in enumerate(value))
    if len(value) != len(kinds):
        raise _MisfitError(f"{place} is no list of {len(kinds)}")
    return tuple(
        _read(each, kind, f"{place}[{n}]")
        for n, (each, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _object(value: Any, kind: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise _MisfitError(f"{place or 'it'} is no object")
    kinds = _kinds(kind)
    dot = f"{place}." if place else ""
    for key in kinds:
        if key not in value:
            raise _MisfitError(f"{dot}{key} is missing")
    for key in value:
        if key not in kinds:
            raise _MisfitError(f"{dot}{key[:80]} is no key of a trace")
    return kind(**{key: _read(value[key], own, f"{dot}{key}") for key, own in kinds.items()})
