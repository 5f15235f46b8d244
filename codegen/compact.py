"""Print lists of numbers, and facts of rows, as short as a person would have written them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from nldc.codegen.program import Column, Piece
from nldc.expr import Ref, references, show
from nldc.ir.size import Size


@dataclass(frozen=True)
class Run:
    """`count` numbers from `start`, each `step` more than the one before."""

    start: int
    step: int
    count: int


def runs(numbers: Sequence[int]) -> tuple[Run, ...]:
    """Split a list into runs, each as long as it can be."""
    found: list[Run] = []
    at = 0
    while at < len(numbers):
        step = numbers[at + 1] - numbers[at] if at + 1 < len(numbers) else 0
        count = 1
        while at + count < len(numbers) and numbers[at + count] == numbers[at] + step * count:
            count += 1
        found.append(Run(numbers[at], step if count > 1 else 0, count))
        at += count
    return tuple(found)


def show_list(numbers: Sequence[int]) -> str:
    """Return a short Python expression for the list."""
    plain = repr(list(numbers))
    if len(numbers) <= 4:
        return plain
    texts = [plain]
    found = runs(numbers)
    if len(found) <= 3:
        texts.append(" + ".join(_show_run(run) for run in found))
    grid = _grid(numbers)
    if grid is not None:
        texts.append(grid)
    # The appended rows come first, and then the groups.
    tail = _grid(numbers[found[0].count :])
    if tail is not None:
        texts.append(f"{_show_run(found[0])} + {tail}")
    return min(texts, key=len)


def _grid(numbers: Sequence[int]) -> str | None:
    """Print runs of one length and step whose starts rise evenly, or return None."""
    total = len(numbers)
    for width in range(total // 2, 0, -1):
        if total % width:
            continue
        rows = [numbers[at : at + width] for at in range(0, total, width)]
        across = rows[0][1] - rows[0][0] if width > 1 else 0
        down = rows[1][0] - rows[0][0]
        begin = rows[0][0]
        if all(
            number == begin + down * g + across * i
            for g, row in enumerate(rows)
            for i, number in enumerate(row)
        ):
            return _show_grid(begin, down, across, len(rows), width)
    return None


def _show_grid(begin: int, down: int, across: int, count: int, width: int) -> str:
    if not down:
        return f"{_show_run(Run(begin, across, width))} * {count}"
    if not across:
        outer = _range(Run(begin, down, count))
        return f"[start for start in {outer} for _ in range({width})]"
    terms = [str(begin)] if begin else []
    terms.append("g" if down == 1 else f"{down} * g")
    terms.append("i" if across == 1 else f"{across} * i")
    return f"[{' + '.join(terms)} for g in range({count}) for i in range({width})]"


def _show_run(run: Run) -> str:
    if not run.step:
        return f"[{run.start}] * {run.count}" if run.count > 1 else f"[{run.start}]"
    return f"[*{_range(run)}]"


def _range(run: Run) -> str:
    stop = run.start + run.step * run.count
    if run.step != 1:
        return f"range({run.start}, {stop}, {run.step})"
    return f"range({run.start}, {stop})" if run.start else f"range({stop})"


def show_affine(size: Size, length: str = "prompt") -> str:
    """Return `fixed + prompts · length` as Python; `length` names the prompt's length."""
    if not size.prompts:
        return str(size.fixed)
    prompt = length if size.prompts == 1 else f"{size.prompts} * {length}"
    if not size.fixed:
        return prompt
    return f"{prompt} + {size.fixed}" if size.fixed > 0 else f"{prompt} - {-size.fixed}"


def show_flags(flags: Sequence[bool]) -> str:
    """Return a short Python expression for a list of flags."""
    found = [Run(flag, 0, len(list(group))) for flag, group in groupby(flags)]
    if len(found) <= 3:
        return " + ".join(_show_run(run) for run in found)
    return f"[flag == 1 for flag in {show_list([int(flag) for flag in flags])}]"


def show_table(lines: Sequence[int] | Sequence[Sequence[int]]) -> str:
    """Return a short Python expression for numbers, or for lines of them.

    Lines that rise evenly become a comprehension.
    """
    if not lines or isinstance(lines[0], int):
        return show_list([number for number in lines if isinstance(number, int)])
    rows = [list(line) for line in lines if not isinstance(line, int)]
    if len(rows) > 1 and rows[0]:
        step = rows[1][0] - rows[0][0]
        first = rows[0]
        if all(
            row == [x + step * n for x in first] for n, row in enumerate(rows)
        ) and first == list(range(first[0], first[0] + len(first))):
            begin = f"{first[0]} + {step} * n" if step else str(first[0])
            return f"[[*range({begin}, {begin} + {len(first)})] for n in range({len(rows)})]"
    return f"[{', '.join(show_list(row) for row in rows)}]"


def show_column(pieces: Column, length: str) -> str:
    """Return a column as a Python list; `length` names the prompt's length."""
    return " + ".join(_show_piece(piece, length) for piece in pieces)


def _show_piece(piece: Piece, length: str) -> str:
    if piece.constant is not None:
        first, stop = piece.start, piece.stop
        size = show_affine(Size(stop.fixed - first.fixed, stop.prompts - first.prompts), length)
        return f"[{piece.constant}] * ({size})" if " " in size else f"[{piece.constant}] * {size}"
    rows = [show_affine(end, length) for end in (piece.start, piece.stop)]
    span = f"range({rows[1]})" if piece.start == Size(0) else f"range({', '.join(rows)})"
    if isinstance(piece.expr, Ref):
        return f"[*{span}]"
    used = {ref.root for ref in references(piece.expr)}
    if len(used) > 1:
        return f"[{show(piece.expr)} for row in {span} for index in (row,)]"
    return f"[{show(piece.expr)} for {used.pop()} in {span}]"
