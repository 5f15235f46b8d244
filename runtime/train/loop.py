"""The training loop: windows in, masters updated, a resumable state and a log on disk.

A step's windows and noise depend on the recipe's seed and the step's number alone, so a run that
was stopped and resumed is the run that was not.
"""

import csv
import ctypes
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.errors import CheckpointError
from nldc.runtime.files import write_whole
from nldc.runtime.train.corpus import read_files, stdlib_root
from nldc.runtime.train.evaluate import continue_greedily
from nldc.runtime.train.export import check_export, export_checkpoint, make_folder
from nldc.runtime.train.model import computed, init_params
from nldc.runtime.train.noise import Noise, NoiseLaw, draw_noise
from nldc.runtime.train.objective import Losses, ar_losses, joint_losses
from nldc.runtime.train.optimizer import Optimizer
from nldc.runtime.train.prompts import draw_prompts, write_prompts
from nldc.runtime.train.recipe import Recipe, Stage
from nldc.runtime.train.tokenizer import encode_stream, load_tokenizer, train_tokenizer

MARKER = "run.json"
"""Says that a folder is a run's: its files are made here, and made again."""
EVALUATION_WINDOWS = 32
LOG_FIELDS = (
    "step",
    "stage",
    "clean_tokens",
    "seconds",
    "rate",
    "ar",
    "diffusion",
    "gradient",
    "held_out_ar",
    "held_out_diffusion",
)


@dataclasses.dataclass
class Run:
    """What changes while training; all of it is saved."""

    params: dict[str, Tensor]
    optimizer: Optimizer
    step: int = 0
    seconds: float = 0.0


def train(
    recipe: Recipe,
    out: Path,
    resume: bool,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Train the recipe's model; leave a checkpoint in `out/checkpoint`.

    Beside it lie `run.json`, `log.csv`, and what a resumed run needs: `state.pt`, the token
    streams and the model's own continuations.

    Args:
        recipe: What to train.
        out: A folder, made if need be.
        resume: Go on from `state.pt` where there is one, rather than start over.
        progress: Is told how many steps of how many are done.

    Raises:
        ValueError: if `micro_batch` does not divide `batch`, or the precision is unknown.
        CheckpointError: if `out` holds something else than a run, or a run that is damaged.
    """
    if recipe.batch % recipe.micro_batch:
        raise ValueError(f"micro_batch {recipe.micro_batch} does not divide batch {recipe.batch}")
    dtype = _dtype(recipe.precision)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    keep_freed_memory()
    _claim(out, resume)
    check_export(out / "checkpoint")
    training, held_out = load_streams(recipe, out)
    run = _start(recipe, out, resume)
    windows = _windows(held_out, recipe, EVALUATION_WINDOWS, -1)
    rollouts = _Rollouts(recipe, out, training)
    sums: list[tuple[float, float, float]] = []
    while run.step < recipe.steps:
        if progress is not None:
            progress(run.step, recipe.steps)
        began = time.perf_counter()
        stage, first = recipe.stage_at(run.step)
        window, own = _draw(
            recipe, stage, run.step, training, rollouts.at(run, stage, first, dtype)
        )
        ar, diffusion = _accumulate(recipe, stage, run, window, own, dtype)
        sums.append((ar, diffusion, run.optimizer.step(recipe.rate_at(run.step))))
        run.step += 1
        last = run.step == recipe.steps
        run.seconds += time.perf_counter() - began
        if run.step % recipe.evaluate_every == 0 or last:
            held = evaluate_losses(recipe, run.params, windows, dtype)
            means = [sum(column) / len(sums) for column in zip(*sums, strict=True)]
            tokens = run.step * recipe.batch * recipe.sequence_length
            rate = recipe.rate_at(run.step - 1)
            _log(out, (run.step, stage.name, tokens, round(run.seconds, 1), rate, *means, *held))
            sums.clear()
        if run.step % recipe.save_every == 0 or last:
            save_state(run, recipe, out)
    export(recipe, run.params, out)


def _claim(out: Path, resume: bool) -> None:
    """Make `out` the folder of a run, whose files may from then on be replaced.

    Raises:
        CheckpointError: something else is in it, or it cannot be made.
    """
    make_folder(out)
    marker = out / MARKER
    if marker.is_file() or (resume and (out / "state.pt").is_file()):
        return
    found = sorted(path.name for path in out.iterdir())
    if found:
        raise CheckpointError(
            f"{out} is not empty and holds no run: `{found[0]}` would be in danger",
            "choose a new folder",
        )
    write_whole(marker, lambda path: path.write_text('{"run": "base"}\n', encoding="utf-8"))


def _load(at: Path) -> Any:
    """Return what `torch.save` wrote; raise CheckpointError where it is damaged."""
    try:
        return torch.load(at)
    except FileNotFoundError:
        raise
    except Exception as problem:  # pickle, zipfile and torch each have their own
        raise CheckpointError(
            f"{at} is damaged: {str(problem).splitlines()[0] if str(problem) else problem!r}",
            "start over in a new folder",
        ) from problem


def export(recipe: Recipe, params: dict[str, Tensor], out: Path) -> None:
    """Write `out/checkpoint`, and held-out prompts in its `heldout.jsonl`."""
    folder, tokenizer = out / "checkpoint", out / "tokenizer.json"
    export_checkpoint(params, recipe.geometry, recipe.block_size, tokenizer, folder)
    prompts = draw_prompts(
        read_files(stdlib_root(), held_out=True),
        load_tokenizer(out),
        recipe.prompt_tokens,
        recipe.prompts,
    )
    write_whole(folder / "heldout.jsonl", lambda path: write_prompts(prompts, path))


def keep_freed_memory() -> None:
    """Keep glibc from returning large blocks to the system between steps, where there is a glibc.

    Activations of tens of megabytes are otherwise mapped, zeroed and unmapped on every use, which
    makes a step on a CPU several times slower.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def load_streams(recipe: Recipe, out: Path) -> tuple[Tensor, Tensor]:
    """Return the training and held-out token rows; make them and `tokenizer.json` on first use."""
    at = out / "streams.pt"
    if not at.exists():
        texts = [file.text for file in read_files(stdlib_root(), held_out=False)]
        tokenizer = train_tokenizer(texts, recipe.geometry.vocab_size)
        text = tokenizer.to_str(pretty=True)
        write_whole(out / "tokenizer.json", lambda path: path.write_text(text, encoding="utf-8"))
        unseen = [file.text for file in read_files(stdlib_root(), held_out=True)]
        tokenizer = load_tokenizer(out)
        streams = encode_stream(tokenizer, texts), encode_stream(tokenizer, unseen)
        _save(streams, at)
    training, held_out = _load(at)
    return training, held_out


def _save(value: object, at: Path) -> None:
    """Write a file whole or not at all; raise OSError where it cannot be."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            torch.save(value, file)

    write_whole(at, write)


def _dtype(precision: str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if precision not in known:
        raise ValueError(f"precision {precision!r} is none of {sorted(known)}")
    return known[precision]


def _start(recipe: Recipe, out: Path, resume: bool) -> Run:
    params = init_params(recipe.config, recipe.seed)
    for value in params.values():
        value.requires_grad_()
    run = Run(params, Optimizer(params, recipe.optimizer))
    at = out / "state.pt"
    if resume and at.exists():
        state = _load(at)
        try:
            with torch.no_grad():
                for name, value in state["params"].items():
                    params[name].copy_(value)
            run.optimizer.load(state["optimizer"])
            run.step, run.seconds = state["step"], state["seconds"]
        except (KeyError, TypeError, AttributeError, RuntimeError) as problem:
            raise CheckpointError(
                f"{at} is of another recipe, or damaged", "resume with the settings of the run"
            ) from problem
    else:
        (out / "log.csv").unlink(missing_ok=True)
    return run


def save_state(run: Run, recipe: Recipe, out: Path) -> None:
    """Write `state.pt` whole or not at all."""
    state = {
        "params": {name: value.detach() for name, value in run.params.items()},
        "optimizer": run.optimizer.state(),
        "step": run.step,
        "seconds": run.seconds,
        "recipe": dataclasses.asdict(recipe),
    }
    _save(state, out / "state.pt")


def _generator(recipe: Recipe, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((recipe.seed << 32) + step + 1)


def _windows(stream: Tensor, recipe: Recipe, count: int, step: int) -> Tensor:
    """Draw (count, S + 1) windows of a token row."""
    length = recipe.sequence_length + 1
    starts = torch.randint(len(stream) - length + 1, (count, 1), generator=_generator(recipe, step))
    return stream[starts + torch.arange(length)]


class _Rollouts:
    """Greedy continuations of training text, drawn when a stage first asks for them."""

    def __init__(self, recipe: Recipe, out: Path, stream: Tensor) -> None:
        self._recipe, self._out, self._stream = recipe, out, stream
        self._of, self._windows = "", torch.empty(0, dtype=torch.int64)

    def at(self, run: Run, stage: Stage, first: int, dtype: torch.dtype) -> Tensor:
        """Return the (count, S + 1) windows of a stage; none if it has no share of them."""
        if not stage.rollout_share or self._of == stage.name:
            return self._windows
        at = self._out / f"rollouts-{stage.name}.pt"
        if run.step == first or not at.exists():
            _save(draw_rollouts(self._recipe, run.params, self._stream, first, dtype), at)
        self._of, self._windows = stage.name, _load(at)
        return self._windows


def draw_rollouts(
    recipe: Recipe, params: dict[str, Tensor], stream: Tensor, step: int, dtype: torch.dtype
) -> Tensor:
    """Continue training text greedily; return int64 windows (count, S + 1), prompts included."""
    law, config = recipe.rollouts, recipe.config
    backbone = computed({name: value.detach() for name, value in params.items()}, config, dtype)
    drawn: list[Tensor] = []
    for number, first in enumerate(range(0, law.count, law.batch)):
        batch = min(law.batch, law.count - first)
        prompts = _windows(stream, recipe, batch, step + (1 << 28) + number)
        length = law.prompt_lengths[number % len(law.prompt_lengths)]
        new = recipe.sequence_length + 1 - length
        drawn.append(continue_greedily(backbone, prompts[:, :length], new))
    return torch.cat(drawn)


def _draw(
    recipe: Recipe, stage: Stage, step: int, stream: Tensor, rollouts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a step's windows (B, S + 1), and which of them are the model's own text, bool (B,)."""
    window = _windows(stream, recipe, recipe.batch, step)
    own = torch.arange(recipe.batch) < round(stage.rollout_share * recipe.batch)
    if own.any():
        generator = _generator(recipe, step + (1 << 27))
        chosen = torch.randint(len(rollouts), (int(own.sum()),), generator=generator)
        window[own] = rollouts[chosen]
    order = torch.arange(recipe.batch).view(-1, recipe.batch // recipe.micro_batch).T.flatten()
    return window[order], own[order]


def _micro_batches(
    recipe: Recipe, window: Tensor, noise: Noise, own: Tensor
) -> Iterator[tuple[Tensor, Noise, Tensor]]:
    for first in range(0, len(window), recipe.micro_batch):
        part = slice(first, first + recipe.micro_batch)
        yield (
            window[part],
            Noise(noise.masked[part], noise.block[part], noise.kind[part]),
            own[part],
        )


def _losses(
    recipe: Recipe,
    joint: bool,
    params: dict[str, Tensor],
    window: Tensor,
    noise: Noise,
    own: Tensor,
    dtype: torch.dtype,
) -> Losses:
    backbone = computed(params, recipe.config, dtype)
    return joint_losses(backbone, window, noise, own) if joint else ar_losses(backbone, window)


def _accumulate(
    recipe: Recipe, stage: Stage, run: Run, window: Tensor, own: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Add up one step's gradients; return its mean losses."""
    generator = _generator(recipe, run.step + (1 << 30))
    noise = draw_noise(stage.noise, recipe.batch, recipe.sequence_length, generator)
    clean = max(1, int((~own).sum()) * recipe.sequence_length)
    hidden = max(1, int(noise.masked.sum()))
    ar = diffusion = 0.0
    joint = stage.diffusion_weight > 0
    for part, part_noise, part_own in _micro_batches(recipe, window, noise, own):
        losses = _losses(recipe, joint, run.params, part, part_noise, part_own, dtype)
        loss = losses.ar / clean + stage.diffusion_weight * losses.diffusion / hidden
        torch.autograd.backward(loss)
        ar += losses.ar.item() / clean
        diffusion += losses.diffusion.item() / hidden
    return ar, diffusion


@torch.no_grad()
def evaluate_losses(
    recipe: Recipe, params: dict[str, Tensor], windows: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Return the mean AR and diffusion loss, in nats a token, of fixed windows and noise."""
    noise = draw_noise(
        NoiseLaw(), len(windows), recipe.sequence_length, _generator(recipe, 1 << 29)
    )
    own = torch.zeros(len(windows), dtype=torch.bool)
    parts = [
        _losses(recipe, True, params, *part, dtype)
        for part in _micro_batches(recipe, windows, noise, own)
    ]
    ar = sum(part.ar.item() for part in parts) / sum(part.ar_rows for part in parts)
    rows = max(1, sum(part.diffusion_rows for part in parts))
    return ar, sum(part.diffusion.item() for part in parts) / rows


def _log(out: Path, row: tuple[object, ...]) -> None:
    at = out / "log.csv"
    fresh = not at.exists()
    with at.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(LOG_FIELDS)
        writer.writerow([f"{x:.5g}" if isinstance(x, float) else x for x in row])
