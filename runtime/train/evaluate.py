"""Held-out acceptance, measured without a decoding loop and without the inference runtime.

Self-speculation is lossless, so the tokens it emits are those of greedy AR decoding, whatever is
drafted. The measurement therefore decodes once, causally, and then drafts at EVERY position of the
continuation behind one causal forward: the drafts of start P see its rows before P, and each other.
A decoding run is a walk through that table. Linear self-speculation starts at P with the token of P
known; quadratic's masks follow P's token, which they see causally (its group's first token is a
verifier row), so their draft is a wholly masked block that starts behind it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.reference.attention import Sight, causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.train.attention import Continuing, Held, behind, holding


@dataclass(frozen=True)
class Acceptance:
    """What walking through the continuations gave.

    Attributes:
        tokens: Tokens emitted after the seed, over all continuations.
        cycles: Cycles it took.
        forwards: Forwards those cycles cost: two each for linear, one each for quadratic.
        histogram: histogram[n] is the number of cycles that emitted n tokens.
    """

    tokens: int
    cycles: int
    forwards: int
    histogram: tuple[int, ...]

    @property
    def tokens_per_cycle(self) -> float:
        """Mean number of tokens a cycle emits, the bonus included."""
        return self.tokens / max(1, self.cycles)

    @property
    def tokens_per_forward(self) -> float:
        """TPF: tokens for each forward of the backbone, prefill left out."""
        return self.tokens / max(1, self.forwards)


@torch.no_grad()
def continue_greedily(backbone: PlainBackbone, prompts: Tensor, new_tokens: int) -> Tensor:
    """Extend int64 (B, P) prompts of equal length by greedy AR decoding; return (B, P + new)."""
    batch, length = prompts.shape
    look = Continuing(backbone.config, batch, length + new_tokens, backbone.dtype)
    rows = [prompts]
    for _ in range(new_tokens):
        positions = torch.arange(look.length, look.length + rows[-1].shape[1])
        states = backbone.forward(backbone.embed(rows[-1]), positions, look)
        rows.append(backbone.head(states[:, -1:]).argmax(dim=-1))
    return torch.cat(rows, dim=1)


@torch.no_grad()
def draft_everywhere(
    backbone: PlainBackbone,
    sequences: Tensor,
    prompt_length: int,
    block_length: int,
    known: int,
    adapter: Adapter | None = None,
) -> Tensor:
    """Return the drafts, int64 (B, T - P, block_length), of blocks at every place from P on.

    Args:
        backbone: All parameters in the compute dtype.
        sequences: int64 (B, T), clean tokens.
        prompt_length: P, the first start.
        block_length: Rows of a block.
        known: 1 if a block's first row holds its true token, 0 if it is a mask as well.
        adapter: The drafter, on the block's rows alone.
    """
    dtype, mask = backbone.dtype, backbone.config.mask_token_id
    starts = torch.arange(prompt_length, sequences.shape[1])
    drafted = []
    for group in torch.split(sequences, 8):
        length = group.shape[1]
        held: Held = []
        look = holding(over(causal(length), dtype), held)
        backbone.forward(backbone.embed(group), torch.arange(length), look)
        pieces = []
        for some in torch.split(starts, max(1, 256 // block_length)):
            blocks = torch.full((len(group), len(some), block_length), mask)
            if known:
                blocks[:, :, 0] = group[:, some]
            at = (some[:, None] + torch.arange(block_length)).flatten()
            owner = torch.arange(len(some)).repeat_interleave(block_length)
            before = torch.arange(length) < some.repeat_interleave(block_length)[:, None]
            sees = torch.cat((before, owner[:, None] == owner[None, :]), dim=1)
            look = behind(held, Sight.of(sees, dtype))
            states = backbone.forward(backbone.embed(blocks.flatten(1)), at, look, adapter)
            pieces.append(backbone.head(states).argmax(dim=-1).view(blocks.shape))
        drafted.append(torch.cat(pieces, dim=1))
    return torch.cat(drafted)


def measure_linear(
    backbone: PlainBackbone,
    sequences: Tensor,
    prompt_length: int,
    block_length: int,
    adapter: Adapter | None = None,
) -> Acceptance:
    """Measure linear self-speculation on greedy continuations.

    Args:
        backbone: All parameters in the compute dtype.
        sequences: int64 (B, T) from `continue_greedily`.
        prompt_length: Where the continuation begins; its first token is the first seed.
        block_length: Rows of the draft forward, the seed included.
        adapter: The drafter, if any.
    """
    drafts = draft_everywhere(backbone, sequences, prompt_length, block_length, 1, adapter)
    return walk_linear(sequences, prompt_length, drafts, backbone.config.eos_token_ids)


def measure_quadratic(
    backbone: PlainBackbone,
    sequences: Tensor,
    prompt_length: int,
    block_length: int,
    adapter: Adapter | None = None,
) -> Acceptance:
    """Measure quadratic self-speculation on greedy continuations; arguments as for linear."""
    drafts = draft_everywhere(backbone, sequences, prompt_length, block_length, 0, adapter)
    return walk_quadratic(sequences, prompt_length, drafts, backbone.config.eos_token_ids)


def walk_linear(
    sequences: Tensor, prompt_length: int, drafts: Tensor, ends: Collection[int]
) -> Acceptance:
    """Count linear cycles: each drafts [seed, masks], emits the matches and one bonus token.

    Args:
        sequences: int64 (B, T) from `continue_greedily`.
        prompt_length: Where the continuation begins.
        drafts: From `draft_everywhere` with the first row known.
        ends: The tokens that end a sequence.
    """
    return _walk(sequences, prompt_length, drafts[:, :, 1:], ends, 2, 1)


def walk_quadratic(
    sequences: Tensor, prompt_length: int, drafts: Tensor, ends: Collection[int]
) -> Acceptance:
    """Count quadratic cycles; arguments as for linear, but with no row known.

    Each cycle's group was drafted behind the last accepted token, by masks 1 to k. Its first token
    is replaced by the verifier's, always accepted; masks 2 to k are the drafts.
    """
    return _walk(sequences, prompt_length, drafts[:, :, 1:], ends, 1, 0)


def _walk(
    sequences: Tensor,
    prompt_length: int,
    drafts: Tensor,
    ends: Collection[int],
    forwards: int,
    bonus: int,
) -> Acceptance:
    """Walk from seed to seed. drafts[b, n] are for the positions behind prompt_length + n.

    A linear cycle at a seed emits its matches and the bonus behind them (the seed was emitted by
    the cycle before); a quadratic one emits the seed and its matches. Both advance by matches + 1;
    a cycle whose block would pass the last token, or an end token, is not counted.
    """
    width = drafts.shape[2]
    histogram = [0] * (width + 2)
    for row, table in zip(sequences.tolist(), drafts.tolist(), strict=True):
        ending = (place for place, token in enumerate(row) if token in ends)
        last = next((place + 1 for place in ending if place >= prompt_length), len(row))
        at = prompt_length
        while at + width + bonus < last:
            draft = table[at - prompt_length]
            matches = 0
            while matches < width and draft[matches] == row[at + 1 + matches]:
                matches += 1
            histogram[matches + 1] += 1
            at += matches + 1
    cycles = sum(histogram)
    tokens = sum(count * n for n, count in enumerate(histogram))
    return Acceptance(tokens, cycles, cycles * forwards, tuple(histogram))


def repeats(sequences: Tensor, prompt_length: int, period: int = 24) -> Tensor:
    """Tell which continuations end in a loop: bool (B,).

    A loop is a tail of 3 · period tokens that repeats with some period of at most `period`. Greedy
    decoding of a small model falls into them, and they are easy to draft: an acceptance figure is
    to be read beside their share.
    """
    found = []
    for row in sequences[:, prompt_length:].tolist():
        tail: list[int] = row[-3 * period :]
        found.append(any(tail[lag:] == tail[:-lag] for lag in range(1, period + 1)))
    return torch.tensor(found)
