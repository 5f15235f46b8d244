"""The noisy stream: three kinds of block, at every offset, from the generator alone."""

import torch

from nldc.runtime.train.noise import FIRST_KNOWN, UNIFORM, WHOLE, NoiseLaw, draw_noise


def _draw(law: NoiseLaw, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = draw_noise(law, 64, 97, torch.Generator().manual_seed(seed))
    return noise.masked, noise.block, noise.kind


def test_the_three_kinds_hide_what_their_drafters_see_hidden() -> None:
    masked, block, kind = _draw(NoiseLaw(block_lengths=(8,), length_weights=(1.0,)))
    seen = set()
    for row in range(len(block)):
        for number in range(int(block[row].max()) + 1):
            at = (block[row] == number).nonzero().flatten()
            hidden, what = masked[row, at], int(kind[row, at[0]])
            seen.add(what)
            if what == WHOLE:
                assert hidden.all()
            if what == FIRST_KNOWN:
                assert not hidden[0]
                assert hidden[1:].all()
    assert seen == {UNIFORM, FIRST_KNOWN, WHOLE}


def test_uniform_blocks_reach_low_and_high_ratios() -> None:
    law = NoiseLaw(block_lengths=(32,), length_weights=(1.0,), kind_weights=(1.0, 0.0, 0.0))
    masked, block, _ = _draw(law)
    ratios = torch.stack([masked[row, block[row] == 1].float().mean() for row in range(64)])
    assert ratios.min() < 0.2
    assert ratios.max() > 0.8


def test_blocks_begin_at_every_offset_and_have_every_length() -> None:
    _, block, _ = _draw(NoiseLaw(block_lengths=(4, 8), length_weights=(1.0, 1.0)))
    lengths = {int((block[row] == 1).sum()) for row in range(64)}
    first = {int((block[row] == 0).sum()) for row in range(64)}
    assert lengths == {4, 8}
    assert first == set(range(1, 9))


def test_one_seed_gives_one_noise() -> None:
    law = NoiseLaw()
    for one, two in zip(_draw(law, 3), _draw(law, 3), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(_draw(law, 3)[0], _draw(law, 4)[0])
