"""Streams for an event loop: the same text, and nothing held when nobody reads on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch
from by_itself import lone, nothing_is_held

from nldc.runtime import Decoder, NldcRuntimeError, PromptError, TokenizerError

OPTIONS: dict[str, Any] = {"max_new_tokens": 30, "eos": (), "temperature": 1.0, "seed": 3}


def threads() -> list[threading.Thread]:
    """The threads of streams that are left, which get a moment to end."""
    for thread in threading.enumerate():
        if thread.name == "nldc-stream":
            thread.join(5)
    return [thread for thread in threading.enumerate() if thread.name == "nldc-stream"]


async def whole(decoder: Decoder, prompt: Any, **options: Any) -> list[str]:
    return [piece async for piece in decoder.astream(prompt, **options)]


def test_an_async_stream_gives_the_stream_s_pieces(decoder: Decoder) -> None:
    for stop in ((), "a"):
        pieces = asyncio.run(whole(decoder, "hello", stop=stop, **OPTIONS))
        assert pieces == list(decoder.stream("hello", stop=stop, **OPTIONS))
    assert not threads()
    assert nothing_is_held(decoder.engine)


def test_within_a_step_nothing_is_streamed_to_a_loop_which_would_wait_for_ever(
    decoder: Decoder,
) -> None:
    def asks(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        asyncio.run(whole(decoder, [3], **OPTIONS))
        return logits

    with pytest.raises(NldcRuntimeError, match="in the midst of a step"):
        decoder.generate([[3]], processors=[asks], **OPTIONS)
    assert not threads()
    assert nothing_is_held(decoder.engine)


def test_many_streams_go_on_at_the_same_time_in_one_loop(decoder: Decoder) -> None:
    live: list[int] = []

    async def everyone() -> list[list[str]]:
        calls = [
            whole(decoder, [3 + n], on_step=lambda record: live.append(record.live), **OPTIONS)
            for n in range(6)
        ]
        return await asyncio.gather(*calls)

    found = asyncio.run(everyone())
    for n, pieces in enumerate(found):
        assert "".join(pieces) == lone(decoder, [3 + n], **OPTIONS)[1]
    assert max(live) > 1
    assert not threads()
    assert nothing_is_held(decoder.engine)


def test_the_loop_goes_on_while_a_step_is_running(decoder: Decoder) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        began.set()
        assert go_on.wait(10)
        return logits

    async def both() -> list[str]:
        task = asyncio.create_task(whole(decoder, [3], processors=slow, **OPTIONS))
        while not began.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await task

    assert "".join(asyncio.run(both())) == lone(decoder, [3], **OPTIONS)[1]


@pytest.mark.parametrize("how", ["aclose", "cancel", "break", "error"])
def test_whoever_leaves_an_async_stream_leaves_nothing_behind(decoder: Decoder, how: str) -> None:
    async def reads() -> None:
        stream = decoder.astream("hello", **{**OPTIONS, "max_new_tokens": 400})
        async for _ in stream:
            assert decoder.engine.live == 1
            if how == "cancel":
                await asyncio.sleep(60)
            if how == "error":
                raise KeyError
            break
        if how == "aclose":
            await stream.aclose()
            assert nothing_is_held(decoder.engine)

    async def main() -> None:
        task = asyncio.create_task(reads())
        if how == "cancel":
            while not decoder.engine.live:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            task.cancel()
        try:
            await task
        except (asyncio.CancelledError, KeyError):
            assert how in ("cancel", "error")

    asyncio.run(main())
    assert not threads()
    assert nothing_is_held(decoder.engine)


def test_what_ends_a_request_is_raised_in_the_loop(decoder: Decoder) -> None:
    def fails(_logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        raise KeyError("never")

    with pytest.raises(PromptError, match="the processor `fails` fails"):
        asyncio.run(whole(decoder, [3], processors=fails, **OPTIONS))
    assert nothing_is_held(decoder.engine)
    assert not threads()


def test_a_bad_prompt_is_refused_before_anything_is_awaited(decoder: Decoder) -> None:
    with pytest.raises(PromptError, match="prompt 0 is empty"):
        decoder.astream("")
    with pytest.raises(PromptError, match="stream takes one prompt"):
        decoder.astream(["a", "b"])  # type: ignore[list-item]
    bare = type(decoder)(decoder.model.backbone)
    with pytest.raises(TokenizerError):
        bare.astream([3])
