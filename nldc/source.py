"""Strategy files: YAML to plain data, and the place of every key, value and character in it.

The YAML is a safe part of YAML 1.2: mappings with text keys, lists and scalars, where only `true`
and `false` are booleans (`on`, `yes` are text). What could hurt or surprise (anchors, aliases,
merge keys, tags, several documents, huge or deep files) is refused while reading.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from nldc.characters import Style, character_offsets
from nldc.diagnostics import Diagnostic, Label, Span, StrategyError

LOG = logging.getLogger("nldc")
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_DIGITS = 18
MAX_FOUND = 200
"""Of so many mistakes in one text the rest is not looked for."""

CANNOT_READ = "NLD001"
NOT_TEXT = "NLD002"
SYNTAX = "NLD003"
DUPLICATE_KEY = "NLD004"
UNSUPPORTED_YAML = "NLD005"
TOO_LARGE = "NLD006"
KEY_NOT_TEXT = "NLD007"
NOT_A_MAPPING = "NLD008"
BAD_NUMBER = "NLD009"

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the data: the keys and list positions that lead to it."""
Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Text:
    """A file's characters, and how it is called.

    `via` is the place of another file that brought it in. `folder` is where the paths that it
    names begin, None for what was given as text; `shown` is its name where no machine's paths may
    stand, as the file that was asked for named it.
    """

    name: str
    text: str = field(repr=False)
    via: Label | None = field(default=None, repr=False)
    folder: FilePath | None = None
    shown: str = ""

    @cached_property
    def line_starts(self) -> list[int]:
        """The offset of the first character of every line."""
        return line_starts(self.text)

    def span(self, start: int, end: int) -> Span:
        """Return the span of a range of the text's characters."""
        starts = self.line_starts
        first = bisect_right(starts, start) - 1
        last = bisect_right(starts, end) - 1
        return Span(
            self.name,
            first + 1,
            start - starts[first] + 1,
            last + 1,
            end - starts[last] + 1,
            start,
            end,
            self.via,
        )


@dataclass(frozen=True)
class Place:
    """Where a value and its key stand in the text, as character ranges, and how it is written.

    `file` is the value's file and `key_file` the key's, where they are not the source's own.
    `offsets` has where each character of a value begins that is not written there as it is.
    """

    key: Range | None
    value: Range
    style: Style
    file: Text | None = field(default=None, repr=False)
    key_file: Text | None = field(default=None, repr=False)
    offsets: tuple[int, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Within:
    """A number that must lie within bounds, as an expression over the params of a strategy."""

    what: str
    expression: str
    span: Span
    whole: bool
    low: float
    high: float


@dataclass(frozen=True)
class Source:
    """A file that was read: its text, its data, and where each piece of the data stands.

    Of one that was put together of several (`nldc.reuse`), `text` is the text of the first,
    `files` are the texts of all and `uses` says which of them extends or includes which; `within`
    is what its fragments ask of the numbers that they are given.
    """

    name: str
    text: str
    data: dict[str, Any]
    spans: Mapping[Path, Place] = field(repr=False)
    file: Text = None  # type: ignore[assignment]  # made of name and text where it is not given
    files: tuple[Text, ...] = ()
    uses: tuple[str, ...] = ()
    within: tuple[Within, ...] = ()

    def __post_init__(self) -> None:
        if self.file is None:
            object.__setattr__(self, "file", Text(self.name, self.text))

    def span_of(self, start: int, end: int) -> Span:
        """Return the span of a range of the text's characters."""
        return self.file.span(start, end)

    def at(self, path: Path) -> Any:
        """Return the data at `path`.

        Raises:
            KeyError, IndexError: there is nothing.
        """
        data: Any = self.data
        for part in path:
            data = data[part]
        return data

    def span(self, path: Path, key: bool = False) -> Span:
        """Return the place of the value at `path`, or with `key` of its key.

        A path that leads nowhere gives the key of the part that should have held it; a list item
        has no key and gives its value; the whole file gives its first key.
        """
        place = self.spans.get(path)
        if place is None:
            return self.span(path[:-1], key=True)
        if not path:
            own = (entry for entry in self.spans.values() if entry.key and not entry.file)
            first = next(own, None)
            return self.span_of(*((first.key if first else None) or place.value))
        if key and place.key:
            return (place.key_file or place.file or self.file).span(*place.key)
        return (place.file or self.file).span(*place.value)

    def inside(self, path: Path, start: int, end: int) -> Span:
        """Return the span of the characters `start` to `end` of the text value at `path`.

        Quotes, escapes and line folding are seen through. Where that is not possible (the value
        is no text, or `path` leads nowhere) the span is that of the whole value.
        """
        place = self.spans.get(path)
        value = self.at(path) if place else None
        if place is None or not isinstance(value, str):
            return self.span(path)
        file, offsets = place.file or self.file, offsets_of(place, value, self.file)
        if offsets is None or not 0 <= start <= end <= len(value):
            return self.span(path)
        if start == end:
            at = offsets[start] if start < len(value) else offsets[-1] + 1 if value else 0
            at = at if value else place.value[0]
            return file.span(at, at)
        return file.span(offsets[start], offsets[end - 1] + 1)


def offsets_of(place: Place, value: str, own: Text) -> Sequence[int] | None:
    """Return where in its file each character of a text value stands; None if it cannot be told.

    `own` is the file of places that name none.
    """
    if place.offsets is not None:
        return place.offsets
    raw = (place.file or own).text[slice(*place.value)]
    found = character_offsets(raw, place.style, value)
    return None if found is None else [place.value[0] + offset for offset in found]


def load(path: str | FilePath, via: Label | None = None, shown: str | None = None) -> Source:
    """Read one file; `via` is the place that brought it in, `shown` its name without a folder.

    Raises:
        StrategyError: the file cannot be read, or its text is not a strategy's YAML.
    """
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise _refused(CANNOT_READ, f"cannot read `{name}`: {reason}", via) from None
    except ValueError:
        raise _refused(CANNOT_READ, f"cannot read {name!r}: not a file name", via) from None
    if len(data) > MAX_BYTES:
        raise _too_large(name, via)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(NOT_TEXT, f"`{name}` is UTF-16 text", via, "save the file as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(
            NOT_TEXT,
            f"`{name}` is not UTF-8 text: byte 0x{data[error.start]:02x} in line {line}",
            via,
            "save the file as UTF-8",
        ) from None
    LOG.info("read %s, %d lines", name, text.count("\n") + 1)
    path = FilePath(path)
    return _parse(Text(name, text, via, path.parent, path.name if shown is None else shown))


def parse(text: str, name: str = "<text>") -> Source:
    """Read a strategy from its text; `name` stands for the file in messages.

    Raises:
        StrategyError: the text is not a strategy's YAML.
    """
    return _parse(Text(name, text, shown=FilePath(name).name))


def _parse(file: Text) -> Source:
    file = replace(file, text=file.text.removeprefix("\ufeff"))
    size = len(file.text)
    if size > MAX_BYTES or len(file.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _too_large(file.name, file.via)
    reader = _Reader(file)
    data = reader.read()
    if reader.found:
        raise StrategyError(reader.found)
    return Source(file.name, file.text, data, reader.spans, file)


def line_starts(text: str) -> list[int]:
    """Return the offset of the first character of every line."""
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]


def _refused(
    code: str,
    message: str,
    via: Label | None = None,
    help: str | None = None,  # noqa: A002 (as in Diagnostic)
) -> StrategyError:
    labels = () if via is None else (replace(via, primary=True),)
    return StrategyError([Diagnostic(code, "error", message, labels, (help,) if help else ())])


def _too_large(name: str, via: Label | None) -> StrategyError:
    return _refused(TOO_LARGE, f"`{name}` is larger than {MAX_BYTES // 1024} KiB", via)


# YAML to data


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+]?[0-9]+)?|[1-9][0-9]*[eE][-+]?[0-9]+)", re.ASCII
)
_FORBIDDEN = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    r"|[\u2028-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters, odd line breaks, and those that reorder text on the screen."""
_TOO_HIGH = re.compile(r"\\U(?!00(?:0[0-9a-fA-F]|10))[0-9a-fA-F]{8}")
_STYLES: dict[str | None, Style] = {
    None: "plain",
    "'": "single",
    '"': "double",
    "|": "literal",
    ">": "folded",
}


def _range(event: Event) -> Range:
    start, end = event.start_mark, event.end_mark
    return (start.index if start else 0, end.index if end else 0)


class _StopReading(Exception):  # noqa: N818 (not an error: the mistake is in `found`)
    """Reading cannot go on: the text is too deep or too large, or is not one mapping."""


class _Reader:
    """One reading of one text: collects its mistakes and the place of every value."""

    def __init__(self, file: Text) -> None:
        self.file = file
        self.text = file.text
        self.found: list[Diagnostic] = []
        self.spans: dict[Path, Place] = {}
        self.nodes = 0
        self.events: Iterator[Event] = iter(())

    def read(self) -> dict[str, Any]:
        """Return the data of the file; where `found` is not empty it means nothing."""
        try:
            return self._read()
        except _StopReading:
            return {}

    def _read(self) -> dict[str, Any]:
        bad = _FORBIDDEN.search(self.text)
        if bad:
            message = f"the character U+{ord(bad[0]):04X} cannot be part of a strategy"
            self.report(NOT_TEXT, message, bad.span(), "here", "delete it")
            return {}
        self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            self._report_syntax(error)
        except (ValueError, OverflowError):
            # PyYAML turns the number of an escape into a character without looking at it
            found = _TOO_HIGH.search(self.text)
            where = found.span() if found else (0, min(1, len(self.text)))
            message = "an escape stands for a character that does not exist"
            self.report(SYNTAX, message, where, "here", "the last one is \\U0010FFFF")
        except RecursionError:
            self.report(TOO_LARGE, "values are nested too deep", (0, min(1, len(self.text))))
        except _StopReading:
            pass
        return {}

    def report(
        self,
        code: str,
        message: str,
        where: Range,
        label: str = "",
        help: str | None = None,  # noqa: A002 (as in Diagnostic)
        also: tuple[Range, str] | None = None,
    ) -> None:
        labels = [Label(self._span(where), label)]
        if also:
            labels.append(Label(self._span(also[0]), also[1], primary=False))
        self.found.append(
            Diagnostic(code, "error", message, tuple(labels), (help,) if help else ())
        )
        if len(self.found) >= MAX_FOUND:
            raise _StopReading

    def _span(self, where: Range) -> Span:
        return self.file.span(*where)

    def _unsupported(self, what: str, where: Range, instead: str) -> None:
        message = f"YAML {what} are not part of the strategy language"
        self.report(UNSUPPORTED_YAML, message, where, help=instead)

    def _word(self, start: int) -> Range:
        match = re.compile(r"[^\s,\[\]{}]*").match(self.text, start)
        return (start, match.end() if match else start)

    def _document(self) -> dict[str, Any]:
        next(self.events)  # the start of the stream
        event = next(self.events)
        if isinstance(event, StreamEndEvent):
            self._report_shape((0, 0), "the file is empty")
            return {}
        root = next(self.events)
        data = self._value(root, (), None)
        next(self.events)  # the end of the document
        event = next(self.events)
        if isinstance(event, DocumentStartEvent):
            where = self._word(_range(event)[0])
            self._unsupported("streams of documents", where, "write one strategy in a file")
            raise _StopReading
        if not isinstance(data, dict):
            what = "a list" if isinstance(data, list) else "a single value"
            start = self.spans[()].value[0]
            self._report_shape((start, min(start + 1, len(self.text))), f"this is {what}")
            return {}
        return data

    def _report_shape(self, where: Range, label: str) -> None:
        message = "a strategy is a mapping of keys to values"
        self.report(NOT_A_MAPPING, message, where, label, "start with `nldc: 1`")

    def _report_syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        at = min(mark.index if mark else 0, len(self.text))
        message, label, advice = _explain_syntax(error.problem or "", self.text, at)
        expected = self._indents(error, at)
        if expected:
            column = _column(self.text, at)
            message, label = "a line is indented by the wrong number of spaces", f"column {column}"
            advice = f"begin it at column {_either(expected)}"
        also = None
        if error.context_mark and error.context_mark.index != at:
            start = error.context_mark.index
            also = ((start, min(start + 1, len(self.text))), _explain_context(error.context or ""))
        self.report(SYNTAX, message, (at, min(at + 1, len(self.text))), label, advice, also)

    def _indents(self, error: yaml.MarkedYAMLError, at: int) -> list[int]:
        """Return the columns where a key may stand, if what is wrong is that one stands elsewhere.

        They are those of the keys that lead to the one before, from the mapping that is open on.
        """
        begins = self.text.rfind("\n", 0, at) + 1
        is_block = (error.context or "").startswith("while parsing a block mapping")
        if not is_block or error.context_mark is None or self.text[begins:at].strip():
            return []
        last = next(reversed(self.spans), ())
        keys = [self.spans[last[:depth]].key for depth in range(1, len(last) + 1)]
        holders = [self.spans[last[:depth]].value[0] for depth in range(len(last))]
        columns = {
            _column(self.text, key[0])
            for key, start in zip(keys, holders, strict=True)
            if key is not None and self.text[start : start + 1] not in ("{", "[")
        }
        found = sorted(c for c in columns if c > error.context_mark.column)
        return found if _column(self.text, at) not in found else []

    def _value(self, event: Event, path: Path, key: Range | None) -> Any:
        """Read one value and enter the places of it and of what it holds."""
        start = _range(event)[0]
        self._refuse_extras(event, len(path))
        # Entered before what it holds, so that places are in the order of the file.
        self.spans[path] = Place(key, (start, _range(event)[1]), "collection")
        style: Style = "collection"
        if isinstance(event, ScalarEvent):
            style = _STYLES[event.style]
            data: Any = self._scalar(event)
            end = _range(event)[1]
            if style in ("literal", "folded"):
                end = len(self.text[:end].rstrip())
        elif isinstance(event, MappingStartEvent):
            data, end = self._mapping(event, path)
        elif isinstance(event, SequenceStartEvent):
            data, end = self._list(event, path)
        else:
            data, end = None, _range(event)[1]
        self.spans[path] = Place(key, (start, max(start, end)), style)
        return data

    def _refuse_extras(self, event: Event, depth: int) -> None:
        where = _range(event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.report(TOO_LARGE, f"more than {MAX_NODES} values in one file", where)
            raise _StopReading
        if depth > MAX_DEPTH:
            self.report(TOO_LARGE, f"values are nested more than {MAX_DEPTH} deep", where)
            raise _StopReading
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if isinstance(event, AliasEvent):
            self._unsupported("aliases", where, f"write the value of `*{anchor}` here")
        elif anchor is not None:
            self._unsupported("anchors", self._word(where[0]), "write the value where it is used")
        if getattr(event, "tag", None) is not None:
            self._unsupported("tags", self._word(where[0]), "leave the tag out")

    def _list(self, event: SequenceStartEvent, path: Path) -> tuple[list[Any], int]:
        data: list[Any] = []
        last = _range(event)[1]
        while not isinstance(item := next(self.events), CollectionEndEvent):
            place = (*path, len(data))
            data.append(self._value(item, place, None))
            last = self.spans[place].value[1]
        return data, _range(item)[1] if event.flow_style else last

    def _mapping(self, event: MappingStartEvent, path: Path) -> tuple[dict[str, Any], int]:
        data: dict[str, Any] = {}
        keys: dict[str, Range] = {}
        last = _range(event)[1]
        while not isinstance(key_event := next(self.events), CollectionEndEvent):
            where = _range(key_event)
            key = self._key(key_event, where, path)
            first = keys.get(key)
            # A second value is read under a place of its own, only to find its mistakes.
            place = (*path, key) if first is None else (*path, f"{key} at {where[0]}")
            value = self._value(next(self.events), place, where)
            last = self.spans[place].value[1]
            if first is None:
                keys[key], data[key] = where, value
            else:
                message = f"the key `{key}` appears twice"
                self.report(DUPLICATE_KEY, message, where, "again here", None, (first, "first"))
        return data, _range(key_event)[1] if event.flow_style else last

    def _key(self, event: Event, where: Range, path: Path) -> str:
        self._refuse_extras(event, len(path) + 1)
        if not isinstance(event, ScalarEvent):
            self.report(KEY_NOT_TEXT, "a key is a name, not a list or a mapping", where)
            raise _StopReading
        if event.style is None and event.value == "<<":
            self._unsupported("merge keys", where, "write the keys out")
        elif not isinstance(self._scalar(event), str) or not event.value:
            what = f"`{event.value}`" if event.value else "nothing"
            self.report(KEY_NOT_TEXT, f"a key is a name, not {what}", where)
        return event.value

    def _scalar(self, event: ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        if event.style is not None:
            bad = _FORBIDDEN.search(text)
            if bad:  # written as an escape: as itself it was refused before
                message = f"the character U+{ord(bad[0]):04X} cannot be part of a strategy"
                self.report(NOT_TEXT, message, _range(event), "in this text", "leave it out")
                return ""
            return text
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        where = _range(event)
        if _INTEGER.fullmatch(text):
            if len(text) > MAX_DIGITS:
                self.report(BAD_NUMBER, f"the number has more than {MAX_DIGITS} digits", where)
                return 0
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                self.report(BAD_NUMBER, f"the number `{text}` is too large", where)
                return 0.0
            return number
        return text


_NEEDS_QUOTES = 'put text with `: `, ` #`, `[`, `{` or `,` in quotes, as in "kept[0:2]"'


_CONTEXTS = {
    "flow mapping": "this `{` is open",
    "flow sequence": "this `[` is open",
    "quoted scalar": "this quote is open",
    "simple key": "this key",
    "block mapping": "in this mapping",
    "block collection": "in this list",
}


def _explain_context(context: str) -> str:
    """Return a label for where PyYAML was when it found something wrong."""
    return next((label for name, label in _CONTEXTS.items() if name in context), "after this")


def _column(text: str, at: int) -> int:
    """Return the column of a character, from 1."""
    return at - text.rfind("\n", 0, at)


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def _explain_syntax(problem: str, text: str, at: int) -> tuple[str, str, str | None]:
    """Return a message, a label and a help text for what PyYAML found wrong at `at`."""
    if problem.startswith("found character '\\t'"):
        return "a tab cannot indent YAML", "a tab", "indent with spaces"
    if problem.startswith("mapping values are not allowed"):
        return "a second `:` in one value", "unexpected here", _NEEDS_QUOTES
    if problem.startswith("could not find expected ':'"):
        return "a key without `:`", "expected `:` before this", "write `key: value`"
    if "<stream end>" in problem or problem.startswith("found unexpected end of stream"):
        return "the file ends too early", "something is still open here", None
    unexpected = re.match(r"expected (.*), but (?:got|found) '?<?(.*?)>?'?$", problem)
    if unexpected:
        wanted = unexpected[1].replace("'", "`").replace("<block end>", "the end of the block")
        shown = text[at : at + 1]
        what = f"found `{shown}`" if shown.strip() else "found the end of the line"
        return f"expected {wanted}", what, _NEEDS_QUOTES if shown in "[{," else None
    starts = re.match(r"found character '(.*)' that cannot start any token", problem)
    if starts:
        return f"a value cannot start with `{starts[1]}`", "here", "put the text in quotes"
    return problem.replace("'", "`") or "this is not YAML", "here", None
