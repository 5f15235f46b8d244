"""What the clients of a soak ask for, and what each of it gives in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from random import Random
from typing import Any

from nldc.runtime import Decoder, GenerateOptions, SwitchingDecoder
from nldc.runtime.engine.handover import schedule
from nldc.runtime.text.chat import Chat, chat_text

EXACT = ("linear_ss", "ar", "linear_ss_lora", "quadratic_ss", "prompt_lookup", "tidar")
INEXACT = ("block_diffusion", "token_editing")
SETTINGS: dict[str, int | float] = {"block_length": 3}
TURNS = "ar:4,linear_ss"
"""A schedule whose text is AR's too."""
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@dataclass(frozen=True)
class Asked:
    """The body of a request, and the text of each of its choices when it is decoded alone.

    `exact` is whether its strategy promises AR's text, which is then what `texts` are.
    """

    path: str
    body: dict[str, Any]
    texts: tuple[str, ...]
    exact: bool

    @property
    def greedy(self) -> bool:
        """Whether nothing of it is drawn by chance."""
        return bool(self.body["temperature"] == 0)


def pool_of(decoder: Decoder, count: int, random: Random) -> list[Asked]:
    """Return distinct requests of every strategy, each with what comes of it alone.

    What an exact strategy gives alone must be AR's text already.
    """
    lines = (files("nldc") / "demo" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    sources = [json.loads(line)["prompt"] for line in lines]
    names: tuple[str | None, ...] = (None, TURNS, *EXACT, *INEXACT)
    return [_asked(decoder, names[k % len(names)], sources, random) for k in range(count)]


def _asked(decoder: Decoder, strategy: str | None, sources: Sequence[str], random: Random) -> Asked:
    source = random.choice(sources)
    start = random.randrange(max(1, len(source) // 2))
    longest = 600 if random.random() < 0.1 else 60
    piece = source[start : start + random.randint(1, longest)] or "x"
    n = random.choice((1, 1, 1, 2, 3))
    body: dict[str, Any] = {
        "n": n,
        "max_tokens": random.randint(1, 40),
        "temperature": random.choice((0, 0, 0.7, 1.3)),
        "seed": random.randrange(2**40),
    }
    if strategy is not None:
        body["strategy"] = strategy
    if random.random() < 0.3:
        body["stop"] = random.sample(["e", "\n", "self", "  ", ")"], 2)
    if body["temperature"] and random.random() < 0.4:
        body |= {"top_p": 0.9, "top_k": 40}
    if random.random() < 0.4:
        messages = [{"role": "user", "content": piece}]
        body["messages"] = messages
        text = chat_text(decoder.tokenizer, messages, "messages", Chat())
        prompt = decoder.tokenizer.encode_chat(text)
        path = CHAT
    else:
        prompt = decoder.tokenizer.encode(piece)
        body["prompt"] = prompt if random.random() < 0.3 else piece
        path = TEXT
    options = GenerateOptions(
        max_new_tokens=body["max_tokens"],
        temperature=body["temperature"],
        seed=body["seed"],
        stop=body.get("stop", ()),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
    )
    exact = strategy not in INEXACT
    texts = _alone(decoder, prompt, options, "ar" if exact else strategy, n)
    if exact and strategy is not None:
        own = _alone(decoder, prompt, options, strategy, n)
        if own != texts:
            raise AssertionError(f"{strategy} gives {own}, and AR {texts}: {body}")
    return Asked(path, body, texts, exact)


def _alone(
    decoder: Decoder, prompt: list[int], options: GenerateOptions, strategy: str | None, n: int
) -> tuple[str, ...]:
    assert isinstance(decoder, SwitchingDecoder)
    if strategy == TURNS:
        options = replace(options, strategy=schedule(TURNS, tuple(decoder.strategies())))
    else:
        options = replace(options, strategy=strategy)
    found = []
    for place in range(n):
        result = decoder.generate([prompt], options=replace(options, sequence_id=place))
        found.append(result.text[0])
    return tuple(found)
