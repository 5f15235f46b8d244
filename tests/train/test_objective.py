"""Dual-stream masks and losses against naive references."""

import torch

from nldc.runtime.reference.attention import causal, over
from nldc.runtime.train.geometry import Geometry, model_config
from nldc.runtime.train.model import computed, init_params
from nldc.runtime.train.noise import Noise, NoiseLaw, draw_noise
from nldc.runtime.train.objective import joint_losses, noisy_sees

SMALL = model_config(
    Geometry(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
    ),
    block_size=4,
)
MASK_ID = SMALL.mask_token_id


def _noise(batch: int, length: int) -> Noise:
    law = NoiseLaw(block_lengths=(3, 5), length_weights=(1.0, 1.0))
    return draw_noise(law, batch, length, torch.Generator().manual_seed(1))


def test_dual_stream_masks_equal_the_rule_written_out() -> None:
    length = 17
    noise = _noise(6, length)
    noisy = noisy_sees(noise.block)
    clean = causal(length)
    for b in range(6):
        for i in range(length):
            for j in range(length):
                mine, theirs = noise.block[b, i], noise.block[b, j]
                assert bool(noisy[b, i, j]) == bool(mine == theirs)
                assert bool(noisy[b, i, length + j]) == bool(theirs < mine)
                assert bool(clean[i, j]) == (j <= i)


def test_clean_rows_of_the_dual_stream_are_a_causal_forward() -> None:
    torch.manual_seed(0)
    backbone = computed(init_params(SMALL, 0), SMALL, torch.float32)
    window = torch.randint(4, 50, (3, 17))
    noise = _noise(3, 16)
    losses = joint_losses(backbone, window, noise, torch.tensor([False] * 3))
    look = over(causal(16), torch.float32)
    states = backbone.forward(backbone.embed(window[:, :-1]), torch.arange(16), look)
    logs = backbone.head(states).log_softmax(-1)
    expected = -logs.gather(2, window[:, 1:, None]).sum()
    torch.testing.assert_close(losses.ar, expected)
    assert losses.ar_rows == 48


def test_a_noisy_block_is_a_forward_of_prefix_and_block_without_a_shift() -> None:
    torch.manual_seed(0)
    backbone = computed(init_params(SMALL, 0), SMALL, torch.float32)
    window = torch.randint(4, 50, (1, 17))
    noise = _noise(1, 16)
    losses = joint_losses(backbone, window, noise, torch.tensor([True]))
    expected = torch.zeros(())
    for number in range(int(noise.block.max()) + 1):
        inside = (noise.block[0] == number).nonzero().flatten()
        stop = int(inside[-1]) + 1
        ids = window[:, :stop].clone()
        ids[:, inside] = ids[:, inside].masked_fill(noise.masked[:, inside], MASK_ID)
        visible = torch.ones(stop, stop, dtype=torch.bool).tril()
        visible[inside[0] :, inside[0] :] = True
        look = over(visible, torch.float32)
        states = backbone.forward(backbone.embed(ids), torch.arange(stop), look)
        logs = backbone.head(states)[0].log_softmax(-1)
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
        computed(params, SMALL, torch.bfloat16),
        window,
        _noise(2, 12),
        torch.tensor([False, True]),
    )
    torch.autograd.backward(losses.ar + losses.diffusion)
    for value in params.values():
        assert value.grad is not None
        assert value.grad.dtype == torch.float32
