"""A trace as text: how each token came to be, a line a step, and what the steps come to.

What comes from a model may hold what a terminal obeys; every text of it is written escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nldc import tabular
from nldc.diagnostics import counted
from nldc.render import escaped
from nldc.trace.document import Draft, Origin, Part, Trace
from nldc.trace.summary import Summary, summary

_SPACES = re.compile(r"^ +| +$| {2,}")
BAR = 30
SHOWN = 48
"""Characters of a step's tokens in the table."""
COLORS: dict[Origin | str, str] = {
    "prefill": "36",
    "ar": "39",
    "accepted": "32",
    "bonus": "34",
    "diffused": "33",
    "refused": "9;31",
}


def shown(trace: Trace, token: int) -> str:
    """Return a token as text on one line; its id where there is no tokenizer."""
    if not trace.text:
        return "·"
    piece = trace.pieces.get(str(token))
    return f"<{token}>" if piece is None else escaped(piece)


def lines_of(
    trace: Trace, *, color: bool, steps: bool = True, width: int | None = None
) -> Iterator[str]:
    """Yield a trace as lines; colours are those of a terminal, whose `width` tables keep to."""
    found = summary(trace)
    yield from _head(trace, found)
    for number, sequence in enumerate(trace.sequences):
        yield ""
        ended = "" if sequence.finish is None else f", ended by {escaped(sequence.finish)}"
        prompt, tokens = counted(sequence.length, "token"), counted(sequence.tokens, "token")
        yield f"sequence {number}: a prompt of {prompt}, then {tokens}{ended}"
        if trace.text:
            yield from _text(trace, number, color=color)
        if steps:
            yield ""
            yield from _table(list(_rows(trace, number)), width)
    yield from _end(found, width)


def _head(trace: Trace, found: Summary) -> Iterator[str]:
    model = trace.model
    names = ", ".join(f"{n} ({each.guarantee})" for n, each in trace.artifact.strategies.items())
    ran = f"{names} on {model.name}: {model.dtype}, {model.device}, {model.backend}"
    yield escaped(ran)
    cost = f"{counted(found.tokens, 'token')} in {counted(found.nfe, 'forward')}"
    yield f"{cost}: {found.tpf:.2f} tokens a forward, {counted(found.steps, 'step')}"
    came = ", ".join(f"{count} {origin}" for origin, count in sorted(found.origins.items()))
    yield f"tokens by how they came: {came or 'none'}"


def _text(trace: Trace, sequence: int, *, color: bool) -> Iterator[str]:
    """Yield the text with each token as it came, and the drafts that were refused."""
    prompt = "".join(shown(trace, token) for token in trace.sequences[sequence].prompt or ())
    out = [f"  {prompt}" if not color else f"  \x1b[2m{prompt}\x1b[0m"]
    left = trace.sequences[sequence].tokens
    for _, part in trace.parts_of(sequence):
        kept = part.tokens[:left]
        left -= len(kept)
        out.append("" if color else "|")
        for token, origin in zip(kept, part.origins, strict=False):
            text = shown(trace, token)
            out.append(f"\x1b[{COLORS[origin]}m{text}\x1b[0m" if color else text)
        refused = _refused(part.draft)
        if refused and left > 0:
            text = "".join(shown(trace, token) for token in refused)
            out.append(f"\x1b[{COLORS['refused']}m{text}\x1b[0m" if color else f"(-{text}-)")
    yield "".join(out)
    if color:
        names = ("prefill", "ar", "accepted", "bonus", "diffused", "refused")
        yield "  " + " ".join(f"\x1b[{COLORS[name]}m{name}\x1b[0m" for name in names)
    else:
        yield "  (a step begins at |; drafts that were refused stand in (- -))"


def _refused(draft: Draft | None) -> Sequence[int]:
    return () if draft is None else draft.tokens[draft.accepted :]


def _rows(trace: Trace, sequence: int) -> Iterator[tuple[str, ...]]:
    yield ("step", "of", "ms", "drafted", "accepted", "rounds", "emitted", "what AR chose instead")
    left, is_one = trace.sequences[sequence].tokens, len(trace.artifact.strategies) == 1
    for step, part in trace.parts_of(sequence):
        kept = part.tokens[:left]
        left -= len(kept)
        emitted = "".join(shown(trace, token) for token in kept)
        cut = len(part.tokens) - len(kept)
        draft = part.draft
        yield (
            str(step.number),
            escaped(step.method if is_one else f"{step.strategy}.{step.method}"),
            f"{1e3 * step.seconds:.2f}",
            "" if draft is None else str(len(draft.tokens)),
            "" if draft is None else str(draft.accepted),
            str(len(part.rounds)) if part.rounds else "",
            _SPACES.sub(lambda found: tabular.HELD * len(found[0]), _short(emitted))
            + (f" (and {cut} behind the end)" if cut else ""),
            _broke(trace, part),
        )


def _broke(trace: Trace, part: Part) -> str:
    """Say where a draft broke, and what the verifier chose there."""
    draft = part.draft
    if draft is None or not draft.is_broken:
        return ""
    place = draft.accepted
    drafted, own = draft.probability[place], draft.verified[place]
    sure = "" if drafted is None else f" ({drafted:.2f})"
    said = f"draft {place + 1} {_quoted(trace, draft.tokens[place])}{sure}"
    chosen = _quoted(trace, draft.targets[place])
    if own is None:
        return f"{said}: {chosen}"
    choice, at = trace.choice(part.sequence, own)
    return f"{said}: {chosen} ({choice.probability[at]:.2f}, ahead by {choice.gap[at]:.3g})"


def _quoted(trace: Trace, token: int) -> str:
    """Return a token in quotes; wherever lines are broken, its spaces stay."""
    return f'"{shown(trace, token)}"'.replace(" ", tabular.HELD)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _end(found: Summary, width: int | None) -> Iterator[str]:
    if found.histogram:
        yield ""
        yield "tokens a step:"
        most = max(found.histogram.values())
        bar = BAR if width is None else max(1, min(BAR, width - len(f"{most:8}  ")))
        for tokens, steps in found.histogram.items():
            yield f"{tokens:4}  {'#' * max(1, round(bar * steps / most)):{bar}}  {steps}"
    if found.positions:
        yield ""
        rows = [("draft", "came", "accepted", "share", "sure", "sure of refused")]
        for each in found.positions:
            share = f"{100 * each.accepted / each.reached:.0f} %"
            sure, refused = (
                "" if value is None else f"{value:.2f}" for value in (each.sure, each.refused)
            )
            rows.append(
                (str(each.place), str(each.reached), str(each.accepted), share, sure, refused)
            )
        yield from _table(rows, width)
    yield ""
    times = [("time", "times", "ms in all", "ms each")]
    for name, time in (*found.phases.items(), *found.forwards.items()):
        total, each_ = f"{1e3 * time.seconds:.2f}", f"{1e3 * time.seconds / time.count:.2f}"
        times.append((escaped(name), str(time.count), total, each_))
    yield from _table(times, width)


def _table(rows: Sequence[tuple[str, ...]], width: int | None) -> Iterator[str]:
    """Yield lines with their columns aligned; an empty column is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    if columns:
        heading, *lines = zip(*columns, strict=True)
        yield from tabular.table(lines, heading, width=width)
