"""What a request gives by itself, and what an engine says of it and holds."""

from __future__ import annotations

from typing import Any

from nldc.runtime import Decoder, Engine, Event, Request


def run(engine: Engine) -> list[Event]:
    """Step until nothing is left to do; return every event."""
    events = []
    while not engine.idle:
        events += engine.step()
    return events


def lone(decoder: Decoder, prompt: Any, **options: Any) -> tuple[list[int], str, str]:
    """Return the tokens, the text and the finish of a prompt that is decoded by itself."""
    found = decoder.generate([prompt], **options)
    return found.tokens[0], found.text[0], found.finish[0]


def told(events: list[Event], request: Request) -> tuple[list[int], str, str]:
    """Return what the events say of a request, put together."""
    own = [event for event in events if event.id == request.id]
    assert own[-1].finish is not None
    assert [event.finish for event in own[:-1]] == [None] * (len(own) - 1)
    return (
        [token for event in own for token in event.tokens],
        "".join(event.text for event in own),
        own[-1].finish,
    )


def nothing_is_held(engine: Engine) -> bool:
    """Whether an engine holds no sequence and no page."""
    return engine.idle and not engine.cache.committed and engine.cache.used == 0
