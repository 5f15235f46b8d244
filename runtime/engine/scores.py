"""Log-probabilities of what requests emit, whatever strategy chose it, and of their prompts.

A request that asks has a second sequence in the cache, with the rows that AR would have of its
text: base weights, each row seeing those before it. When a step has emitted tokens, the rows that
predict them are computed there, of all sequences that ask in one forward, and their logits are
read. So the strategy's own rows and forwards are what they would be without, and none of these is
counted as one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nldc.runtime.cache.prefix import names_of
from nldc.runtime.engine.computing import Stepped
from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.request import SCORED_AT_ONCE, Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.errors import CheckpointError
from nldc.runtime.rows.plan import PIECE
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.logprobs import (
    CAUSAL,
    TokenLogprob,
    are_numbers,
    following,
    logprobs_of,
    pieces,
)
from nldc.runtime.step.member import Member
from nldc.runtime.step.values import Hidden

Fresh = tuple[Request, list[int]]
"""A request, and the tokens that it is about to emit."""


class Scores:
    """Computes on `model`, in the places that requests have for it in `seats`."""

    def __init__(self, model: Model, seats: Seats, ends: Ends) -> None:
        self._model = model
        self._seats = seats
        self._ends = ends

    def score_prompt(self, request: Request) -> None:
        """Score the prompt of a request that asks for that, before its prefill.

        The prefill then begins with the pages of the prompt, where its rows are the same.

        Raises:
            CheckpointError: logits are no numbers.
        """
        asked, text = request.asked_logprobs, request.prompt
        if asked.prompt is None:
            return
        first = min(max(asked.first, 1), len(text))
        found: list[TokenLogprob] = []
        member = self._seats.scorer(request)
        with torch.inference_mode():
            batch = self._batch([member])
            if first > 1:
                self._forward(batch, [text[: first - 1]], states=slice(0, 0))
            for rows in pieces(first - 1, len(text) - 1, PIECE):
                states = self._forward(batch, [text[rows]]).states[0]
                after = text[rows.start + 1 : rows.stop + 1]
                found += logprobs_of(self._model.backend, states, after, asked.prompt)
            cache = self._seats.cache
            cache.keep(member.slot, None)
            cache.enter(member.slot, names_of(text[:-1]))
        self._check(request, found)
        request.prompt_logprobs = (*[None] * first, *found)

    def scored(self, stepped: Stepped) -> Stepped:
        """Return a step, with the log-probabilities of what it emits ready for who asks for them.

        A request for which that fails ends with the error.
        """
        asking: list[Fresh] = []
        for request, came, failed in stepped.left:
            request.scored = []
            if request.asked_logprobs.tokens is None:  # the prefill has taken the prompt's pages
                self._seats.end_scoring(request)
                continue
            if failed is None and not request.done:
                fresh, _ = request.fresh(came.tokens[min(request.skips, len(came.tokens)) :])
                good = next((n for n, token in enumerate(fresh) if token < 0), len(fresh))
                if good:
                    asking.append((request, fresh[:good]))
        if asking:
            self._tried(asking)
        return stepped

    def _tried(self, asking: Sequence[Fresh]) -> None:
        """Score tokens of all who ask together, or if that fails of each alone."""
        try:
            self._score(asking)
        except Exception as problem:
            if len(asking) == 1:
                self._ends.fail(asking[0][0], problem)
                return
            for each in asking:
                self._tried([each])

    @torch.inference_mode()
    def _score(self, asking: Sequence[Fresh]) -> None:
        """Let `scored` of each request be what is known of its fresh tokens."""
        found: dict[int, list[TokenLogprob]] = {request.id: [] for request, _ in asking}
        left = [(request, fresh, self._caught_up(request)) for request, fresh in asking]
        while left:
            width = min(SCORED_AT_ONCE, max(len(fresh) for _, fresh, _ in left))
            parts = [(request, fresh[:width], last) for request, fresh, last in left]
            for request, part in self._round(parts, width):
                found[request.id] += part
            left = [
                (request, fresh[width:], fresh[width - 1])
                for request, fresh, _ in left
                if len(fresh) > width
            ]
        for request, _ in asking:
            self._check(request, found[request.id])
            request.scored = found[request.id]

    def _round(
        self, parts: Sequence[tuple[Request, list[int], int]], width: int
    ) -> list[tuple[Request, list[TokenLogprob]]]:
        """Score some tokens of each request, at most `width`, the rows of which follow those there.

        Each comes with the id before its tokens. Rows are filled up to one number, and what fills
        them is forgotten.
        """
        cache, backend = self._seats.cache, self._model.backend
        members = [self._seats.scorer(request) for request, *_ in parts]
        rows = [[last, *fresh[:-1]] for _, fresh, last in parts]
        filled = [[*own, *own[-1:] * (width - len(own))] for own in rows]
        states = self._forward(self._batch(members), filled).states.flatten(0, 1)
        used = [line * width + row for line, own in enumerate(rows) for row in range(len(own))]
        if len(used) < len(states):
            states = states[torch.tensor(used).to(states.device)]
        tokens = [token for _, fresh, _ in parts for token in fresh]
        top = max(request.asked_logprobs.tokens or 0 for request, *_ in parts)
        known = iter(logprobs_of(backend, states, tokens, top))
        for member, own in zip(members, rows, strict=True):
            cache.keep(member.slot, len(own))
        return [
            (request, [_fewer(next(known), request.asked_logprobs.tokens or 0) for _ in fresh])
            for request, fresh, _ in parts
        ]

    def _caught_up(self, request: Request) -> int:
        """Let the rows of a text but its last be there, and no others; return its last id.

        A step that is done again after an interrupt may find more of them.
        """
        cache, member = self._seats.cache, self._seats.scorer(request)
        end = len(request.prompt) + len(request.tokens) - 1
        cache.keep(member.slot, 0)
        have = cache.committed[member.slot]
        if have > end:
            cache.forget(member.slot, have - end)
        elif have < end:
            text = self._ids(request, have, end)
            self._forward(self._batch([member]), [text], states=slice(0, 0))
            cache.keep(member.slot, None)
        return self._ids(request, end, end + 1)[0]

    def _ids(self, request: Request, first: int, end: int) -> Sequence[int]:
        """Return the ids behind rows of a request's text; an embedding has one of its own."""
        begin = len(request.prompt)
        if first >= begin:
            return request.tokens[first - begin : end - begin]
        if request.embeddings is None:
            return request.history()[first:end]
        own = self._model.backbone.config.vocab_size
        return [*range(own, own + begin), *request.tokens][first:end]

    def _batch(self, members: Sequence[Member]) -> Batch:
        return Batch(self._model, self._seats.cache, members, self._seats.beside)

    def _forward(
        self, batch: Batch, rows: Sequence[Sequence[int]], states: slice | None = None
    ) -> Hidden:
        """Compute rows behind those that are there, as many of each sequence, by their ids."""
        tokens = torch.tensor([list(own) for own in rows], dtype=torch.int64).to(batch.device)
        return batch.forward(
            tokens, following(tokens.shape[1]), CAUSAL, counted=False, states=states
        )

    def _check(self, request: Request, found: Sequence[TokenLogprob]) -> None:
        if not are_numbers(found):
            raise CheckpointError(
                f"the model's logits for prompt {request.place} are no numbers, "
                "and give no log-probabilities",
                "the weights are damaged, or too large for this dtype: try bfloat16 or float32",
            )


def _fewer(found: TokenLogprob, top: int) -> TokenLogprob:
    """Return it with so many of the likeliest tokens."""
    return found if len(found.top) <= top else replace(found, top=found.top[:top])
