"""Dual-stream masks and losses against naive references."""

import torch

from nldc.runtime.train.model import Geometry, cast, head, hidden_states, init_params
from nldc.runtime.train.noise import Noise, NoiseLaw, draw_noise
from nldc.runtime.train.objective import additive, causal_mask, joint_losses, noisy_mask

SMALL = Geometry(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=10,
)
MASK_ID = 3


def _noise(batch: int, length: int) -> Noise:
    law = NoiseLaw(block_lengths=(3, 5), length_weights=(1.0, 1.0))
    return draw_noise(law, batch, length, torch.Generator().manual_seed(1))


def test_dual_stream_masks_equal_the_rule_written_out() -> None:
    length = 17
    noise = _noise(6, length)
    noisy = noisy_mask(noise.block, torch.float32)
    clean = causal_mask(length, torch.float32)
    for b in range(6):
        for i in range(length):
            for j in range(length):
                mine, theirs = noise.block[b, i], noise.block[b, j]
                assert (noisy[b, 0, i, j] == 0) == bool(mine == theirs)
                assert (noisy[b, 0, i, length + j] == 0) == bool(theirs < mine)
                assert (clean[0, 0, i, j] == 0) == (j <= i)


def test_clean_rows_of_the_dual_stream_are_a_causal_forward() -> None:
    torch.manual_seed(0)
    params = init_params(SMALL, 0)
    window = torch.randint(4, 50, (3, 17))
    noise = _noise(3, 16)
    losses = joint_losses(
        params, SMALL, window, noise, torch.tensor([False] * 3), MASK_ID, torch.float32
    )
    hidden = hidden_states(
        params, SMALL, window[:, :-1], torch.arange(16), (causal_mask(16, torch.float32),)
    )
    logs = head(params, hidden).log_softmax(-1)
    expected = -logs.gather(2, window[:, 1:, None]).sum()
    torch.testing.assert_close(losses.ar, expected)
    assert losses.ar_rows == 48


def test_a_noisy_block_is_a_forward_of_prefix_and_block_without_a_shift() -> None:
    torch.manual_seed(0)
    params = init_params(SMALL, 0)
    window = torch.randint(4, 50, (1, 17))
    noise = _noise(1, 16)
    losses = joint_losses(
        params, SMALL, window, noise, torch.tensor([True]), MASK_ID, torch.float32
    )
    expected = torch.zeros(())
    for number in range(int(noise.block.max()) + 1):
        inside = (noise.block[0] == number).nonzero().flatten()
        stop = int(inside[-1]) + 1
        ids = window[:, :stop].clone()
        ids[:, inside] = ids[:, inside].masked_fill(noise.masked[:, inside], MASK_ID)
        visible = torch.ones(stop, stop, dtype=torch.bool).tril()
        visible[inside[0] :, inside[0] :] = True
        hidden = hidden_states(
            params, SMALL, ids, torch.arange(stop), (additive(visible[None], torch.float32),)
        )
        logs = head(params, hidden)[0].log_softmax(-1)
        for row in inside.tolist():
            if noise.masked[0, row]:
                expected = expected - logs[row, window[0, row]]
    torch.testing.assert_close(losses.diffusion, expected)
    assert losses.diffusion_rows == int(noise.masked.sum())
    assert losses.ar_rows == 0


def test_gradients_reach_float32_masters_through_bfloat16_copies() -> None:
    params = {name: value.requires_grad_() for name, value in init_params(SMALL, 0).items()}
    window = torch.randint(4, 50, (2, 13))
    losses = joint_losses(
        cast(params, torch.bfloat16),
        SMALL,
        window,
        _noise(2, 12),
        torch.tensor([False, True]),
        MASK_ID,
        torch.bfloat16,
    )
    torch.autograd.backward(losses.ar + losses.diffusion)
    for value in params.values():
        assert value.grad is not None
        assert value.grad.dtype == torch.float32
