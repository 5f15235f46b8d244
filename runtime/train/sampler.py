"""The trained sampler: which masked rows of a block are safe to commit now.

The method of Nemotron-Labs-Diffusion, appendix A, in small. Blocks begin at random places of the
model's own greedy text. A block is denoised by a sampler of a random threshold, and before every
forward's commits each masked row gives an example: the features that the sampler will see (see
`runtime/reference/sampler.py`), and whether the row's likeliest token is the text's. What is
committed is the text's token, so that labels of later rounds mean what they say. The network learns
these labels by cross-entropy; the backbone takes no part but to be run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.abi import SAMPLER_FOLDER
from nldc.runtime.checkpoint.sampler import SamplerShape, SamplerWeights
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.files import put_files
from nldc.runtime.reference.attention import Sight, causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.reference.sampler import features, reference
from nldc.runtime.train.attention import Held, behind, holding
from nldc.runtime.train.beside import Written, descend, frozen
from nldc.runtime.train.export import make_folder
from nldc.runtime.train.texts import own_text, training_stream

WRITTEN = Written(
    "sampler", SAMPLER_FOLDER, "sampler.csv", ("step", "seconds", "loss", "by_confidence"), 100
)


@dataclass(frozen=True)
class SamplerRecipe:
    """The numbers of the sampler's training.

    Attributes:
        width: Of the network.
        layers: Of the network.
        heads: Of the network.
        top: Likeliest tokens of a row whose log-probabilities are features.
        block_length: Rows of a block, the known one included; shorter ones are trained too.
        texts: Greedy continuations drawn before training.
        prompt_length: Tokens of their prompts.
        sequence_length: Tokens of prompt and continuation.
        sequences: Sequences a draw.
        blocks: Blocks a sequence.
        draws: How often blocks are drawn and denoised.
        rounds: Forwards of a draw at most.
        steps: Optimizer steps on what was drawn.
        batch: Rounds of blocks a step.
        learning_rate: After warm-up; it falls to zero along a cosine.
        seed: Of everything that is drawn.
        precision: The backbone's dtype, "bfloat16" or "float32".
        threads: Threads of the matrix products, 0 to leave them alone.
    """

    width: int = 64
    layers: int = 3
    heads: int = 4
    top: int = 8
    block_length: int = 16
    texts: int = 320
    prompt_length: int = 96
    sequence_length: int = 256
    sequences: int = 8
    blocks: int = 6
    draws: int = 80
    rounds: int = 6
    steps: int = 2000
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 23
    precision: str = "float32"
    threads: int = 2

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """The lengths of prompts, of which there is one."""
        return (self.prompt_length,)


@dataclass(frozen=True, eq=False)
class Examples:
    """Rounds of blocks: `features` [N, k, F], `masked` bool [N, k], `right` bool [N, k]."""

    features: Tensor
    masked: Tensor
    right: Tensor


def train_sampler(
    recipe: SamplerRecipe,
    checkpoint: Path,
    out: Path,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Train a sampler for a checkpoint folder; write it to `out/commit_sampler`.

    Args:
        recipe: How to train.
        checkpoint: Any folder that a decoder loads, with a tokenizer; it is only read.
        out: Where the sampler's folder and `sampler.csv` go.
        progress: Is told how many steps of how many are done.

    Raises:
        NldcRuntimeError: the recipe's lengths contradict one another or the model, or the loss
            comes to be no number: then no sampler is written.
        CheckpointError, TokenizerError: the checkpoint cannot be loaded, or `out` not written.
        AdapterError: `out` holds a sampler or a log that was not written here.
    """
    check_recipe(recipe)
    backbone = frozen(recipe, checkpoint, out, WRITTEN)
    stream = training_stream(checkpoint, backbone.config)
    make_folder(out)
    text, _ = own_text(recipe, backbone, stream)
    examples = draw_examples(recipe, backbone, text)
    weights = fit(recipe, examples, out, progress)
    folder = out / SAMPLER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    put_files(folder, weights.save)


def check_recipe(recipe: SamplerRecipe) -> None:
    """Raise NldcRuntimeError if a recipe's numbers contradict one another."""
    room = recipe.sequence_length - recipe.prompt_length
    if not 2 <= recipe.block_length <= room:
        raise NldcRuntimeError(
            f"block_length = {recipe.block_length} does not lie between 2 and the {room} tokens "
            f"behind a prompt of {recipe.prompt_length}",
            "give another block_length, or a longer sequence_length",
        )
    dim, left = divmod(recipe.width, recipe.heads)
    if left or dim & (dim - 1):
        raise NldcRuntimeError(
            f"{recipe.heads} heads do not share a width of {recipe.width}",
            "the width of a head must be a power of two",
        )


@torch.no_grad()
def draw_examples(recipe: SamplerRecipe, backbone: PlainBackbone, text: Tensor) -> Examples:
    """Denoise blocks of the text (int64 [N, T]) by random thresholds, and note every round."""
    generator = torch.Generator().manual_seed(recipe.seed << 16)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(recipe.draws):
        chosen = torch.randint(len(text), (recipe.sequences,), generator=generator)
        clean = text[chosen]
        places = torch.rand(recipe.sequences, recipe.blocks, generator=generator)
        last = clean.shape[1] - recipe.block_length
        first = recipe.prompt_length
        starts = first + (places * (last - first + 1)).long()
        found += _rounds(recipe, backbone, clean, starts, generator)
    return Examples(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _rounds(
    recipe: SamplerRecipe,
    backbone: PlainBackbone,
    clean: Tensor,
    starts: Tensor,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the features, masks and labels of each round of one draw, by block."""
    batch, length = clean.shape
    blocks, k = starts.shape[1], recipe.block_length
    dtype, mask = backbone.dtype, backbone.config.mask_token_id
    held: Held = []
    look = holding(over(causal(length), dtype), held)
    backbone.forward(backbone.embed(clean), torch.arange(length), look)
    at = (starts[:, :, None] + torch.arange(k)).flatten(1)
    truth = clean.gather(1, at).view(batch * blocks, k)
    owner = torch.arange(blocks).repeat_interleave(k)
    before = torch.arange(length) < starts.repeat_interleave(k, dim=1)[:, :, None]
    same = (owner[:, None] == owner[None, :]).expand(batch, -1, -1)
    sight = Sight.of(torch.cat((before, same), dim=2), dtype)
    masked = torch.ones(batch * blocks, k, dtype=torch.bool)
    masked[:, 0] = False
    threshold = torch.rand(batch * blocks, 1, generator=generator)
    found = []
    for _ in range(recipe.rounds):
        live = masked.any(1)
        if not bool(live.any()):
            break
        tokens = truth.masked_fill(masked, mask)
        rows = backbone.embed(tokens.view(batch, blocks * k))
        states = backbone.forward(rows, at, behind(held, sight))
        logits = backbone.head(states).view(batch * blocks, k, -1).float()
        seen = features(logits, tokens, masked, mask, recipe.top)
        sure, best = logits.softmax(-1).max(-1)
        found.append((seen[live], masked[live], (best == truth)[live]))
        surest = sure.masked_fill(~masked, -1).argmax(1, keepdim=True)
        taken = masked & (sure >= threshold)
        taken.scatter_(1, surest, True)
        masked = masked & ~taken
    return found


def fit(
    recipe: SamplerRecipe,
    examples: Examples,
    out: Path,
    progress: Callable[[int, int], object] | None = None,
) -> SamplerWeights:
    """Return the trained network; its losses go to a log in `out`, beside those of confidence.

    `progress` is told how many steps of how many are done.
    """
    shape = SamplerShape(recipe.width, recipe.layers, recipe.heads, recipe.block_length, recipe.top)
    generator = torch.Generator().manual_seed(recipe.seed)
    tensors = _begin(shape, generator)
    for value in tensors.values():
        value.requires_grad_()
    optimizer = torch.optim.AdamW(tensors.values(), betas=(0.9, 0.95), weight_decay=0.01)
    trained = list(tensors.values())
    with WRITTEN.log(out) as log:
        for step in range(recipe.steps):
            if progress is not None:
                progress(step, recipe.steps)
            along = step / recipe.steps
            rate = min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * along))
            chosen = torch.randint(len(examples.masked), (recipe.batch,), generator=generator)
            x, masked = examples.features[chosen], examples.masked[chosen]
            right = examples.right[chosen].float()
            by_row = F.binary_cross_entropy_with_logits(
                reference(shape, tensors, x), right, reduction="none"
            )
            loss, rate = by_row[masked].mean(), recipe.learning_rate * rate
            now = descend(loss, trained, optimizer, rate, step, WRITTEN)
            sure = (x[..., 0] * 4).exp().clamp(1e-4, 1 - 1e-4)
            log.add(step, now, F.binary_cross_entropy(sure[masked], right[masked]).item())
    return SamplerWeights(shape, {name: value.detach() for name, value in tensors.items()})


def _begin(shape: SamplerShape, generator: torch.Generator) -> dict[str, Tensor]:
    """Return tensors to begin with: norms of one, products that keep a row's size."""
    tensors: dict[str, Tensor] = {}
    for name, size in shape.tensors().items():
        if name.endswith("norm.weight"):
            tensors[name] = torch.ones(size)
        elif name == "output.bias":
            tensors[name] = torch.zeros(size)
        else:
            scale = 0.02 if name == "places.weight" else size[1] ** -0.5
            tensors[name] = torch.randn(size, generator=generator) * scale
    return tensors
