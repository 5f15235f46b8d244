"""Print long lists of numbers as the short Python that a person would have written.

A list that depends on the prompt's length is given at several lengths, fitted, checked at more
lengths, and printed with `prompt` in its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nldc.diagnostics import InternalError
from nldc.ir.size import Size


@dataclass(frozen=True)
class Run:
    """`count` numbers from `start`, each `step` more than the one before."""

    start: int
    step: int
    count: int


def runs(numbers: Sequence[int], steps: Sequence[int] | None = None) -> tuple[Run, ...]:
    """Split a list into runs, each as long as it can be; `steps` bounds what a run may rise by."""
    found: list[Run] = []
    at = 0
    while at < len(numbers):
        step = numbers[at + 1] - numbers[at] if at + 1 < len(numbers) else 0
        count = 1
        if steps is None or step in steps:
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


def show_prompt_list(numbers: Callable[[int], Sequence[int]]) -> str:
    """Return a Python expression in `prompt` for a list that grows with the prompt.

    Raises:
        InternalError: the list has no such form.
    """
    lengths = (5, 6, 9)
    found = [runs(numbers(length), steps=(0, 1)) for length in lengths]
    if len({len(each) for each in found}) != 1:
        raise InternalError("a list of row facts has no closed form in the prompt's length")
    parts = [
        (
            same[0].step,
            _affine([run.start for run in same], lengths),
            _affine([run.count for run in same], lengths),
        )
        for same in zip(*found, strict=True)
    ]
    for length in (1, 2, 7, 31):
        listed = [
            start.at(length) + step * place
            for step, start, count in parts
            for place in range(count.at(length))
        ]
        if listed != list(numbers(length)):
            raise InternalError(f"row facts are not as fitted for a prompt of {length}")
    return " + ".join(_show_fitted(step, start, count) for step, start, count in parts)


def _show_fitted(step: int, start: Size, count: Size) -> str:
    shown = show_affine(start), show_affine(count)
    if not step:
        return f"[{shown[0]}] * ({shown[1]})" if " " in shown[1] else f"[{shown[0]}] * {shown[1]}"
    if start == Size(0):
        return f"[*range({shown[1]})]"
    return f"[*range({shown[0]}, {show_affine(start + count)})]"


def _affine(values: Sequence[int], lengths: Sequence[int]) -> Size:
    slope, rest = divmod(values[1] - values[0], lengths[1] - lengths[0])
    size = Size(values[0] - slope * lengths[0], slope)
    if rest or any(v != size.at(n) for v, n in zip(values, lengths, strict=True)):
        raise InternalError("a row fact is no simple sum of the prompt's length")
    return size


def fit(numbers: Callable[[int], int]) -> Size:
    """Return the number as a sum of the prompt's length.

    Raises:
        InternalError: it is no such sum.
    """
    lengths = (5, 6, 9)
    return _affine([numbers(length) for length in lengths], lengths)


def show_affine(size: Size) -> str:
    """Return `fixed + prompts · prompt` as Python."""
    if not size.prompts:
        return str(size.fixed)
    prompt = "prompt" if size.prompts == 1 else f"{size.prompts} * prompt"
    if not size.fixed:
        return prompt
    return f"{prompt} + {size.fixed}" if size.fixed > 0 else f"{prompt} - {-size.fixed}"
