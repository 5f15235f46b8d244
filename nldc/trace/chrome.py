"""A trace in the form that Perfetto and Chrome show: steps and forwards on a time line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nldc.trace.document import Trace

ENGINE = 0
"""The line of the engine's steps; sequence n has line n + 1."""


def chrome_of(trace: Trace) -> dict[str, Any]:
    """Return the events of a trace as that form's JSON object; times are in microseconds."""
    name = ", ".join(trace.artifact.strategies)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"model": trace.model.name, "device": trace.model.device},
        "traceEvents": [
            _named("process_name", ENGINE, f"{name} on {trace.model.name}"),
            _named("thread_name", ENGINE, "engine"),
            *(
                _named("thread_name", number + 1, f"sequence {number}")
                for number in range(len(trace.sequences))
            ),
            *_events(trace),
        ],
    }


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


def _events(trace: Trace) -> Iterator[dict[str, Any]]:
    for step in trace.steps:
        said = {"step": step.number, "live": step.live, "waiting": step.waiting}
        yield _event(f"{step.strategy}.{step.method}", step.kind, ENGINE, step.begin, step.seconds,
                     said)  # fmt: skip
        shared = {
            (each.node, each.begin, each.seconds, len(each.tokens))
            for part in step.parts
            for each in part.forwards
        }
        for node, begin, seconds, rows in sorted(shared, key=lambda each: each[1]):
            yield _event(
                node, "forward", ENGINE, step.begin + begin, seconds, {"rows of each": rows}
            )
        for part in step.parts:
            said = {"step": step.number, "emitted": len(part.tokens), "forwards": part.nfe}
            if part.draft is not None:
                said |= {"drafted": len(part.draft.tokens), "accepted": part.draft.accepted}
            if part.rounds:
                said |= {"iterations": len(part.rounds)}
            yield _event(step.method, step.kind, part.sequence + 1, step.begin, step.seconds, said)


def _event(
    name: str, kind: str, thread: int, begin: float, seconds: float, said: dict[str, int]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "pid": 0,
        "tid": thread,
        "ts": round(1e6 * begin, 3),
        "dur": round(1e6 * seconds, 3),
        "args": said,
    }
