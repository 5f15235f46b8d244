"""What a batch is without its backbone: how its sequences' tokens are chosen, ended and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.model.scores import ScoreName, candidates, likeliest, mixed
from nldc.runtime.step import choose, noted_ops
from nldc.runtime.step.history import History
from nldc.runtime.step.host import Copy
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.noise import uniform
from nldc.runtime.step.noted import FLAGS, IDS, Notes, known, real
from nldc.runtime.step.params import Asked, Role, values_of
from nldc.runtime.step.values import Choosing, Counting, Hidden, Logits, Rows, Scored


class Sequences:
    """The sequences of one step: `size` members, in order.

    `mask_token_id` fills rows that are masked. `failed` holds, by the number of its sequence, the
    error of a processor that failed in this step: nothing that comes of the step for that sequence
    means anything, and nothing of the others is changed. `by_node` are the forwards of each
    node that each sequence had a part in, where somebody watches. `notes` is where ops are noted
    that are done together; None: each is done by itself.
    """

    notes: Notes | None = None

    def __init__(self, lineup: Lineup) -> None:
        self.lineup = lineup
        self.failed: dict[int, NldcRuntimeError] = {}
        self._forwards = 0
        self._active_forwards: Tensor | None = None
        self._rounds = 0
        self._asked: tuple[Tensor, list[bool]] | None = None
        self.by_node: dict[str, Tensor] | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """What each sequence brings."""
        return self.lineup.members

    @property
    def slots(self) -> tuple[int, ...]:
        """The place of each sequence in the cache."""
        return self.lineup.slots

    @property
    def size(self) -> int:
        """The number of sequences, B."""
        return len(self.lineup.members)

    @property
    def device(self) -> torch.device:
        """Where all values of the batch lie."""
        return self.lineup.slot_index.device

    @property
    def mask_token_id(self) -> int:
        """The token that stands in rows that are masked."""
        return self.lineup.rules.mask_token_id

    def history(self) -> History:
        """Return the text of each sequence: its prompt, and what was emitted before this step."""
        return History.of([member.history() for member in self.members], self.device)

    # Choices and scores

    def param(self, asked: Asked, role: Role = "score") -> Tensor:
        """See `StepBatch.param`."""
        given = [member.params for member in self.members]
        return values_of(asked, role, given, torch.float32, self.device)

    def sample(
        self,
        logits: Logits,
        mask_token: Choosing = "allowed",
        temperature: choose.Temperature = None,
    ) -> Tensor:
        """Return the chosen token of each row, int64 [B, n]; see `choose.sample`."""
        rules, failed = self.lineup.rules, self.failed
        return self.seen(choose.sample(rules, failed, logits, mask_token, real(temperature)))

    def mix(self, logits: Sequence[Logits], weights: Sequence[float | Tensor]) -> Logits:
        """See `StepBatch.mix`."""
        return replace(logits[0], values=mixed([each.values for each in logits], real(weights)))

    def candidates(self, logits: Logits, count: int) -> Tensor:
        """See `StepBatch.candidates`."""
        return self.seen(candidates(logits.values, count).flatten(1))

    def probability(
        self,
        logits: Logits,
        tokens: Tensor,
        of: Scored = "raw",
        mask_token: Counting = "counted",
    ) -> Tensor:
        """Return the probability of tokens [B, n] in their rows; see `choose.probability`."""
        rules, tokens = self.lineup.rules, real(tokens)
        return choose.probability(rules, self.failed, logits, tokens, of, mask_token)

    def entropy(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return the entropy of each row, [B, n]; see `choose.entropy`."""
        return choose.entropy(self.lineup.rules, self.failed, logits, of, mask_token)

    def safety(self, logits: Logits, rows: Rows, sampler: str) -> Tensor:
        """Return the likeliest token's probability in each row, [B, n]: there is no sampler."""
        del rows, sampler
        return self.seen(likeliest(logits.values))

    def margin(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return how far the likeliest token is ahead, [B, n]; see `choose.margin`."""
        return choose.margin(self.lineup.rules, self.failed, logits, of, mask_token)

    def noise(self, rows: Hidden | Logits, stream: int, iteration: int) -> Tensor:
        """Return a random number in [0, 1) for each row, [B, n]; see `noise.uniform`."""
        if self.notes is not None:
            facts, positions = self.lineup.facts, rows.positions
            return noted_ops.uniform(self.notes, facts, positions, stream, iteration)
        rules = self.lineup.rules
        keys = rules.keys.unsqueeze(1)
        return uniform(rules.seeds, keys, rows.positions, stream, iteration)

    def sample_scored(
        self,
        logits: Logits,
        *names: ScoreName,
        tokens: Tensor | None = None,
        mask_token: Choosing = "allowed",
        mask_token_scored: Counting = "counted",
        temperature: choose.Temperature = None,
    ) -> tuple[Tensor, ...]:
        """Return what `StepBatch.head_choose_scored` does, of logits, one after another."""
        chosen = self.sample(logits, mask_token, temperature)
        found = [chosen]
        for name in names:
            if name == "probability":
                own = chosen if tokens is None else tokens
                found.append(self.probability(logits, own, mask_token=mask_token_scored))
            else:
                score = self.entropy if name == "entropy" else self.margin
                found.append(score(logits, mask_token=mask_token_scored))
        return tuple(found)

    # What is noted

    def seen(self, values: Tensor) -> Tensor:
        """Return what the model came to, as ops take it that are noted."""
        return known(self.notes, values)

    def settle(self) -> None:
        """Do what was noted so far."""
        if self.notes is not None:
            self.notes.flush()

    # Ends, loops, counts

    @property
    def end_ids(self) -> Tensor:
        """The ids that end each sequence, int64 [B, e]; what is none fills a line."""
        return self.lineup.eos

    def ends(self, tokens: Tensor, *, first: bool = False) -> Tensor:
        """Return which tokens [B, n] end their sequence, bool; `first`: by the first of its ids."""
        eos = self.end_ids[:, :1] if first else self.end_ids
        return (tokens.unsqueeze(2) == eos.unsqueeze(1)).any(2)

    def everyone(self) -> Tensor:
        """Return bool [B], all true: the sequences that a loop begins with."""
        if self.notes is None:
            active = torch.ones(self.size, dtype=torch.bool, device=self.device)
        else:
            active = noted_ops.constant(self.notes, FLAGS, 1)
        self._asked = (active, [True] * self.size)
        return active

    def rounds(
        self, active: Tensor, most: int, *, least: int = 0, apart: bool = False
    ) -> Iterator[int]:
        """See `StepBatch.rounds`."""
        del apart
        self.begin_rounds()
        for number in range(most):
            if number:
                self._asked = None  # a round has changed it
            if number >= least and self.done(active):
                break
            yield number
            self.settle()
        self._rounds -= 1

    def begin_rounds(self) -> None:
        """Let a loop begin: what is noted in its rounds is apart from what was before."""
        if self.notes is not None and self._active_forwards is None:
            self._active_forwards = noted_ops.constant(self.notes, IDS, 0)
        self.settle()
        self._rounds += 1

    def done(self, active: Tensor) -> bool:
        """Whether a loop may end, as none of `active`, bool [B], goes on: a round's one wait.

        An answer that comes a round late would change no result: in the round too many nobody is
        active, and to each sequence it is like a round for others that are not done yet. Such a
        round keeps what the sequence holds (`ops.advance`, `hold`), and counts no forward of it.
        But a round too many costs a forward, and the wait far less: until the next forward is
        launched, which the host can begin at once.
        """
        return not any(self.who(active))

    def who(self, active: Tensor) -> list[bool]:
        """Return which sequences are active, on the host; what was asked in this round is known."""
        if self._asked is None or self._asked[0] is not active:
            self._asked = (active, Copy.of(real(active)).read())
        return self._asked[1]

    def count(self, active: Tensor | None) -> None:
        """Count a forward, for the active sequences (None: all)."""
        before = self._active_forwards
        if self.notes is not None and self._rounds:
            assert before is not None
            noted_ops.add_to(before, 1 if active is None else active)
            return
        if active is None:
            self._forwards += 1
            return
        now = active.to(torch.int64)
        self._active_forwards = now if before is None else before + now

    def watch(self) -> None:
        """From now on, count the forwards of each node in `by_node`, int64 [B] each."""
        self.by_node = {}

    def note(self, node: str, active: Tensor | None) -> None:
        """Note a forward of a node, for the active sequences (None: all), if somebody watches."""
        if self.by_node is None:
            return
        if active is None:
            active = torch.ones(self.size, dtype=torch.bool, device=self.device)
        now = active.to(torch.int64)
        self.by_node[node] = self.by_node[node] + now if node in self.by_node else now

    def forwards(self) -> Tensor:
        """Return how many counted forwards each sequence had a part in, int64 [B]."""
        if self.notes is not None:
            return noted_ops.sum_of(self.notes, self._forwards, self._active_forwards)
        total = torch.full((self.size,), self._forwards, device=self.device)
        return total if self._active_forwards is None else total + self._active_forwards
