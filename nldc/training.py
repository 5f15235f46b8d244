"""`nldc train`: recipes with some of their numbers changed, checked before a long run begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nldc.diagnostics import nearest
from nldc.runtime.errors import NldcRuntimeError

if TYPE_CHECKING:
    from nldc.runtime.train.drafter import DrafterRecipe
    from nldc.runtime.train.recipe import Recipe
    from nldc.runtime.train.sampler import SamplerRecipe

MOST = {"threads": 2**15, "rank": 2**15, "seed": 2**31}
"""What numbers of a recipe lie below, where that is less than what a file can hold."""

Numbers = Mapping[str, int | float]
Progress = Callable[[int, int], object]
R = TypeVar("R", "Recipe", "DrafterRecipe", "SamplerRecipe")


def with_settings(recipe: R, settings: Numbers) -> R:
    """Return the recipe with these of its numbers.

    Raises:
        NldcRuntimeError: the recipe has no such number, or it is of another kind.
    """
    held = {item.name: getattr(recipe, item.name) for item in fields(recipe)}
    known = [name for name, value in held.items() if type(value) in (int, float)]
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            meant = nearest(name, known)
            hint = f"did you mean {meant}?" if meant else f"it has {', '.join(known)}"
            raise NldcRuntimeError(f"the recipe has no number {name}", hint)
        whole = isinstance(held[name], int)
        if (whole and not isinstance(value, int)) or not 0 < value < MOST.get(name, 2**63):
            kind = "a whole number" if whole else "a number"
            most = f" and below {MOST[name]}" if name in MOST else ""
            hint = f"{kind} above 0{most}"
            raise NldcRuntimeError(f"{name} = {value!s:.40} is not allowed", hint)
        changes[name] = value if whole else float(value)
    return replace(recipe, **changes)


def numbers(recipe: R) -> dict[str, int | float]:
    """Return the numbers of a recipe that settings may change."""
    held = {item.name: getattr(recipe, item.name) for item in fields(recipe)}
    return {name: value for name, value in held.items() if type(value) in (int, float)}


def recipe_numbers(name: str) -> dict[str, int | float]:
    """Return what settings may change of the recipe of `base`, `drafter` or `sampler`."""
    if name == "drafter":
        from nldc.runtime.train.drafter import DrafterRecipe

        return numbers(DrafterRecipe())
    if name == "sampler":
        from nldc.runtime.train.sampler import SamplerRecipe

        return numbers(SamplerRecipe())
    from nldc.runtime.train.recipe import Recipe

    return numbers(Recipe())


def train_base(
    out: Path, settings: Numbers, resume: bool, progress: Progress | None = None
) -> Path:
    """Train the tri-mode model of the recipe and return its checkpoint folder.

    `progress` is told how many steps of how many are done, here and in the others.

    Raises:
        NldcRuntimeError: the settings do not fit, or `out` holds another run.
    """
    from nldc.runtime.train.loop import train
    from nldc.runtime.train.recipe import Recipe

    recipe = with_settings(Recipe(), settings)
    if recipe.batch % recipe.micro_batch:
        raise NldcRuntimeError(
            f"micro_batch {recipe.micro_batch} does not divide batch {recipe.batch}"
        )
    if not resume and (out / "state.pt").exists():
        raise NldcRuntimeError(f"{out} holds a run", "go on with --resume, or choose a new folder")
    train(recipe, out, resume, progress)
    return out / "checkpoint"


def train_drafter(
    checkpoint: Path, out: Path | None, settings: Numbers, progress: Progress | None = None
) -> Path:
    """Train the LoRA drafter of a checkpoint and return the adapter's folder.

    Raises:
        NldcRuntimeError: the settings do not fit, or the checkpoint cannot be trained on.
    """
    from nldc.runtime.abi import ADAPTER_FOLDER
    from nldc.runtime.train import drafter

    recipe = with_settings(drafter.DrafterRecipe(), settings)
    target = checkpoint if out is None else out
    drafter.train_drafter(recipe, checkpoint, target, progress)
    return target / ADAPTER_FOLDER


def train_sampler(
    checkpoint: Path, out: Path | None, settings: Numbers, progress: Progress | None = None
) -> Path:
    """Train the sampler of a checkpoint and return its folder.

    Raises:
        NldcRuntimeError: the settings do not fit, or the checkpoint cannot be trained on.
    """
    from nldc.runtime.abi import SAMPLER_FOLDER
    from nldc.runtime.train import sampler

    recipe = with_settings(sampler.SamplerRecipe(), settings)
    target = checkpoint if out is None else out
    sampler.train_sampler(recipe, checkpoint, target, progress)
    return target / SAMPLER_FOLDER
