"""Lines of Python at the right depth, with the place in the strategy file that they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap


@dataclass(frozen=True)
class Line:
    """A line that was printed, and the nodes of the strategy that it was printed for."""

    text: str
    nodes: tuple[str, ...] = ()


@dataclass
class Writer:
    """Collects lines; `indent` opens a block, `of` says which nodes they are for."""

    lines: list[Line] = field(default_factory=list)
    depth: int = 0
    nodes: tuple[str, ...] = ()

    def line(self, text: str = "") -> None:
        """Add one line at the present depth, or several that are indented already."""
        whole = "    " * self.depth + text if text else ""
        self.lines += [Line(each, self.nodes) for each in whole.split("\n")]

    def assign(self, target: str, call: str, arguments: list[str]) -> None:
        """Add `target = call(arguments)`, an argument a line where one line is too short."""
        one = (
            f"{target} = {call}({', '.join(arguments)})"
            if target
            else (f"{call}({', '.join(arguments)})")
        )
        if len(one) + 4 * self.depth <= 100:
            self.line(one)
            return
        self.line(f"{target} = {call}(" if target else f"{call}(")
        with self.indent():
            for argument in arguments:
                self.line(f"{argument},")
        self.line(")")

    def assign_text(self, target: str, text: str) -> None:
        """Add `target = text`; a list that is too long for a line is wrapped at its commas."""
        one = f"{target} = {text}"
        self.line(one if len(one) <= 100 else "\n".join(wrap(one, 100, subsequent_indent="    ")))

    def comment(self, text: str) -> None:
        """Add a comment, wrapped to the line."""
        for line in wrap(f"# {text}", 100 - 4 * self.depth, subsequent_indent="# "):
            self.line(line)

    def docstring(self, text: str) -> None:
        """Add a docstring, wrapped to the line."""
        lines = wrap(f'"""{text}', 100 - 4 * self.depth)
        if len(lines) == 1 and len(lines[0]) + 3 <= 100 - 4 * self.depth:
            self.line(f'{lines[0]}"""')
            return
        for line in lines:
            self.line(line)
        self.line('"""')

    @contextmanager
    def of(self, nodes: Iterable[str]) -> Iterator[None]:
        """Write the lines inside for some nodes."""
        before, self.nodes = self.nodes, tuple(nodes)
        yield
        self.nodes = before

    @contextmanager
    def indent(self) -> Iterator[None]:
        """Write the lines inside one level deeper."""
        self.depth += 1
        yield
        self.depth -= 1

    def text(self) -> str:
        """Return everything written, ending in a newline."""
        return text_of(self.lines)


def text_of(lines: Sequence[Line]) -> str:
    """Return lines as the text of a file, ending in one newline."""
    return "\n".join(line.text for line in lines).rstrip("\n") + "\n"


def show_tuple(items: Sequence[str]) -> str:
    """Return a tuple of what is printed already."""
    return f"({', '.join(items)}{',' * (len(items) == 1)})"


def quoted(text: str) -> str:
    """Return text from a strategy file as a Python literal in ASCII."""
    return json.dumps(text, ensure_ascii=True)


def commented(text: str) -> str:
    """Return text from a strategy file so that it stays inside one comment or docstring line.

    Quotes and backslashes are replaced, because they could end the docstring; so is everything
    that does not print.
    """
    line = " ".join(text.split())
    safe = "".join(c if c.isprintable() and ord(c) < 0x2500 else "?" for c in line)
    return safe.replace("\\", "/").replace('"', "'")
