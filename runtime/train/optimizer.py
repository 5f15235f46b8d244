"""Muon for the decoder's matrices, AdamW for everything else.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest semi-orthogonal matrix, found
with five Newton-Schulz steps. Scaled by 0.2 · sqrt(max(rows, columns)) its updates have the root
mean square of AdamW's (arXiv 2502.16982), so that one learning rate serves both. Matrices of one
shape are stacked: three batched products a step instead of a hundred small ones.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: Tensor) -> Tensor:
    """Return float32 (N, R, C), R <= C, with the singular values of every matrix moved near 1."""
    a, b, c = COEFFICIENTS
    x = stack.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.float()
    return orthogonal


@dataclass(frozen=True)
class OptimizerSettings:
    """Rates and decays; the learning rate itself comes from the schedule."""

    momentum: float = 0.95
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0


class Optimizer:
    """Muon and AdamW over one dictionary of parameters; its state is a dictionary of tensors."""

    def __init__(self, params: dict[str, Tensor], settings: OptimizerSettings) -> None:
        self._settings = settings
        self._params = params
        self._matrices = [n for n, p in params.items() if p.dim() == 2 and ".layers." in n]
        self._momentum = {n: torch.zeros_like(params[n]) for n in self._matrices}
        self._adam = torch.optim.AdamW(
            [p for n, p in params.items() if n not in self._momentum],
            betas=settings.betas,
            weight_decay=0.0,
            foreach=True,
        )

    def step(self, rate: float) -> float:
        """Clip, update every parameter at this learning rate, clear the gradients.

        Returns:
            The norm of the gradient before clipping.
        """
        norm = torch.nn.utils.clip_grad_norm_(list(self._params.values()), self._settings.clip)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._muon(rate)
        for value in self._params.values():
            value.grad = None
        return float(norm)

    @torch.no_grad()
    def _muon(self, rate: float) -> None:
        stacks: dict[tuple[int, int], list[tuple[str, Tensor]]] = defaultdict(list)
        for name in self._matrices:
            grad = self._params[name].grad
            assert grad is not None
            momentum = self._momentum[name]
            momentum.lerp_(grad, 1 - self._settings.momentum)
            update = grad.lerp(momentum, self._settings.momentum)
            flat = update if update.shape[0] <= update.shape[1] else update.T
            stacks[flat.shape[0], flat.shape[1]].append((name, flat))
        for (_, columns), members in stacks.items():
            updates = orthogonalise(torch.stack([flat for _, flat in members]))
            for (name, _), update in zip(members, updates, strict=True):
                value = self._params[name]
                value.mul_(1 - rate * self._settings.weight_decay)
                fitted = update if update.shape == value.shape else update.T
                value.add_(fitted, alpha=-rate * 0.2 * columns**0.5)

    def state(self) -> dict[str, object]:
        """Return everything a resumed run needs."""
        return {"momentum": self._momentum, "adam": self._adam.state_dict()}

    def load(self, state: dict[str, object]) -> None:
        """Take over the state of an interrupted run."""
        momentum, adam = state["momentum"], state["adam"]
        assert isinstance(momentum, dict)
        assert isinstance(adam, dict)
        for name, value in momentum.items():
            self._momentum[name].copy_(value)
        self._adam.load_state_dict(adam)
