"""What trainings of a part beside a checkpoint's frozen weights have in common."""

import csv
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor

from nldc.runtime.errors import AdapterError, NldcRuntimeError
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.train.loop import keep_freed_memory


class FrozenRecipe(Protocol):
    """What a recipe says of the frozen model, and of how it is computed."""

    @property
    def sequence_length(self) -> int: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102


class Log:
    """Means of numbers over every so many steps, a line each, with the seconds until then."""

    def __init__(self, file: TextIO, fields: Sequence[str], every: int) -> None:
        self._file, self._every = file, every
        self._writer = csv.writer(file)
        self._writer.writerow(fields)
        self._began = time.perf_counter()
        self._sums = [0.0] * (len(fields) - 2)

    def add(self, step: int, *numbers: float) -> None:
        """Take the numbers of a step, counted from 0."""
        self._sums = [old + new for old, new in zip(self._sums, numbers, strict=True)]
        if (step + 1) % self._every == 0:
            means = (each / self._every for each in self._sums)
            row = (time.perf_counter() - self._began, *means)
            self._writer.writerow((step + 1, *(f"{value:.4g}" for value in row)))
            self._file.flush()
            self._sums = [0.0] * len(self._sums)


@dataclass(frozen=True)
class Written:
    """What a training leaves in a folder: `what` it is, its own folder and its log.

    The log has `fields`, the step and the seconds first, and a line for `every` so many steps.
    """

    what: str
    folder: str
    log_name: str
    fields: tuple[str, ...]
    every: int

    def check(self, out: Path) -> None:
        """Raise AdapterError if `out` holds one or a log that no training wrote."""
        log = out / self.log_name
        try:
            with log.open(newline="", encoding="utf-8") as file:
                is_own = next(csv.reader(file), None) == list(self.fields)
        except (OSError, ValueError, csv.Error):
            is_own = False
        for path in (log, out / self.folder):
            if os.path.lexists(path) and not is_own:
                raise AdapterError(
                    f"{path} was not written by `nldc train`, and would be replaced",
                    "choose another folder: -o DIR",
                )

    @contextmanager
    def log(self, out: Path) -> Iterator[Log]:
        """Open the log anew."""
        with (out / self.log_name).open("w", newline="") as file:
            yield Log(file, self.fields, self.every)


def frozen(recipe: FrozenRecipe, checkpoint: Path, out: Path, written: Written) -> PlainBackbone:
    """Return the backbone of a checkpoint beside which something is trained, and set threads.

    Raises:
        AdapterError: `out` holds what no training wrote.
        CheckpointError: the checkpoint cannot be loaded.
        NldcRuntimeError: its context is shorter than the recipe's sequences.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    keep_freed_memory()
    written.check(out)
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[recipe.precision]
    backbone = PlainBackbone.load(checkpoint, dtype)
    context = backbone.config.context
    if recipe.sequence_length > context:
        raise NldcRuntimeError(
            f"sequence_length = {recipe.sequence_length} is more than the model's context of "
            f"{context}",
            f"give sequence_length={context} or less",
        )
    return backbone


def descend(
    loss: Tensor,
    trained: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    rate: float,
    step: int,
    written: Written,
) -> float:
    """Take an optimizer's step, its gradients' norm at most 1, and return the loss before it.

    Raises:
        NldcRuntimeError: the loss is no number.
    """
    if not math.isfinite(now := loss.item()):
        raise NldcRuntimeError(
            f"the loss of step {step + 1} is {now}, and no {written.what} is written",
            "use a smaller learning_rate",
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return now
