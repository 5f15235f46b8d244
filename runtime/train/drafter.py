"""The LoRA drafter of linear self-speculation, trained against a frozen verifier (NLD).

Only the draft forward meets the adapter: a low-rank product beside each output projection, on the
block's rows. The verifier's weights take no gradient and are never written to. Training text is the
verifier's own greedy decoding; a block starts at a random place of it, with one known token and
masks behind it, as in a draft.

Row j of a block is compared with the verifier's distribution for the same place, on the rows that
decide a cycle's length: those up to and including the first whose argmax is not the verifier's.
There the loss is

    λ_j · KL(p_j || q_j) + (1 - λ_j) · TV(p_j, q_j) + CE(argmax p_j, q_j),   λ_j = exp(-η · α_j),

p_j the verifier's and q_j the drafter's distribution at temperature τ, restricted to the union of
the 200 likeliest tokens of each, and α_j = Σ min(p_j, q_j) their overlap, the acceptance rate of
speculative sampling: KL leads while they are far apart, total variation, which is 1 - α, once they
are close. λ_j takes no gradient.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.files import put_files
from nldc.runtime.reference.attention import Sight, causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.train.attention import Held, behind, holding
from nldc.runtime.train.beside import Written, descend, frozen
from nldc.runtime.train.export import make_folder
from nldc.runtime.train.model import OutputLora
from nldc.runtime.train.texts import own_text, training_stream

WRITTEN = Written(
    "adapter", ADAPTER_FOLDER, "drafter.csv", ("step", "seconds", "loss", "tokens_per_cycle"), 25
)


@dataclass(frozen=True)
class DrafterRecipe:
    """The numbers of the drafter's training.

    Attributes:
        rank: r of the adapter.
        alpha: The adapter's output is scaled by alpha / r.
        steps: Optimizer steps.
        sequences: Sequences a step.
        blocks: Blocks a sequence.
        block_length: Rows of a block, the known one included.
        learning_rate: The rate after warm-up; it falls linearly to zero.
        temperature: τ of both distributions.
        eta: η of λ_j.
        top: How many of the likeliest tokens of each distribution are compared.
        texts: Greedy continuations drawn before training.
        prompt_lengths: Lengths of their prompts, one a batch.
        sequence_length: Tokens of prompt and continuation.
        seed: Of the adapter, the prompts and the blocks.
        precision: The compute dtype, "bfloat16" or "float32".
        threads: Threads of the matrix products, 0 to leave them alone.
    """

    rank: int = 64
    alpha: float = 256.0
    steps: int = 500
    sequences: int = 16
    blocks: int = 12
    block_length: int = 16
    learning_rate: float = 1.5e-3
    temperature: float = 3.0
    eta: float = 0.5
    top: int = 200
    texts: int = 3072
    prompt_lengths: tuple[int, ...] = (96, 128, 160)
    sequence_length: int = 256
    seed: int = 21
    precision: str = "bfloat16"
    threads: int = 2


def init_lora(config: ModelConfig, recipe: DrafterRecipe) -> OutputLora:
    """Return a LoRA that changes nothing yet: random down, zero up."""
    generator = torch.Generator().manual_seed(recipe.seed)
    inner = config.num_heads * config.head_dim
    layers = range(config.num_layers)
    down = tuple(torch.randn(recipe.rank, inner, generator=generator) * inner**-0.5 for _ in layers)
    up = tuple(torch.zeros(config.hidden_size, recipe.rank) for _ in layers)
    return OutputLora(down, up, recipe.alpha / recipe.rank)


def drafter_losses(draft: Tensor, verifier: Tensor, recipe: DrafterRecipe) -> tuple[Tensor, Tensor]:
    """Return the summed loss of deciding rows and the number of matching rows of each block.

    Args:
        draft: (N, k - 1, V) logits of the masked rows of N blocks.
        verifier: (N, k - 1, V) logits of the verifier for the same places; they take no gradient.
        recipe: τ, η and the number of tokens compared.

    Returns:
        A float32 scalar, and int64 (N,), how many drafts of each block would be accepted.
    """
    draft, verifier = draft.float(), verifier.detach().float()
    best = verifier.argmax(dim=-1)
    accepted = (draft.argmax(dim=-1) == best).long().cumprod(dim=-1)
    matches = accepted.sum(dim=-1)
    deciding = torch.arange(draft.shape[1]) <= matches[:, None]
    draft, verifier, best = draft[deciding], verifier[deciding], best[deciding]
    hard = F.cross_entropy(draft, best, reduction="sum")

    top = min(recipe.top, draft.shape[-1])
    kept = torch.zeros(draft.shape, dtype=torch.bool)
    for logits in (draft, verifier):
        kept.scatter_(1, logits.detach().topk(top, dim=-1).indices, True)
    left_out = torch.finfo(torch.float32).min
    log_q = (draft / recipe.temperature).masked_fill(~kept, left_out).log_softmax(dim=-1)
    log_p = (verifier / recipe.temperature).masked_fill(~kept, left_out).log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    divergence = torch.where(kept, p * (log_p - log_q), 0.0).sum(dim=-1)
    variation = 0.5 * (p - q).abs().sum(dim=-1)
    share = torch.exp(-recipe.eta * torch.minimum(p, q).sum(dim=-1)).detach()
    return hard + (share * divergence + (1 - share) * variation).sum(), matches


def train_drafter(
    recipe: DrafterRecipe,
    checkpoint: Path,
    out: Path,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Train an adapter for a checkpoint folder; write it to `out/linear_spec_lora`, PEFT layout.

    Args:
        recipe: How to train.
        checkpoint: Any folder that a decoder loads, with a tokenizer; it is only read.
        out: Where the adapter's folder and `drafter.csv` go.
        progress: Is told how many steps of how many are done.

    Raises:
        NldcRuntimeError: the recipe's lengths contradict one another or the model, or the loss
            comes to be no number: then no adapter is written.
        CheckpointError, TokenizerError: the checkpoint cannot be loaded, or `out` not written.
        AdapterError: `out` holds an adapter or a log that was not written here.
    """
    check_lengths(recipe)
    backbone = frozen(recipe, checkpoint, out, WRITTEN)
    check_rank(recipe, backbone.config)
    stream = training_stream(checkpoint, backbone.config)
    make_folder(out)
    lora = init_lora(backbone.config, recipe)
    trained = [*lora.down, *lora.up]
    for value in trained:
        value.requires_grad_()
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0, foreach=True)
    text = own_text(recipe, backbone, stream)
    with WRITTEN.log(out) as log:
        for step in range(recipe.steps):
            if progress is not None:
                progress(step, recipe.steps)
            rate = recipe.learning_rate * min((step + 1) / 30, 1 - step / recipe.steps)
            loss, matches = _step(recipe, backbone, lora, text, step)
            log.add(step, descend(loss, trained, optimizer, rate, step, WRITTEN), matches)
    export_lora(lora, recipe, out / ADAPTER_FOLDER)


def check_lengths(recipe: DrafterRecipe) -> None:
    """Raise NldcRuntimeError unless a block of masks fits behind every prompt."""
    if recipe.block_length < 2:
        raise NldcRuntimeError(
            f"block_length = {recipe.block_length} leaves nothing to draft", "give at least 2"
        )
    least = max(recipe.prompt_lengths) + recipe.block_length
    if recipe.sequence_length < least:
        raise NldcRuntimeError(
            f"sequence_length = {recipe.sequence_length} leaves no room for a block of "
            f"{recipe.block_length} behind a prompt of {max(recipe.prompt_lengths)} tokens",
            f"give sequence_length={least} or more",
        )


def check_rank(recipe: DrafterRecipe, config: ModelConfig) -> None:
    """Raise NldcRuntimeError if a model's matrices have no room for an adapter of the rank."""
    widest = min(config.hidden_size, config.num_heads * config.head_dim)
    if recipe.rank > widest:
        raise NldcRuntimeError(
            f"rank = {recipe.rank} is more than the {widest} of the matrices that it adds to",
            f"give rank={widest} or less",
        )


def _step(
    recipe: DrafterRecipe,
    backbone: PlainBackbone,
    lora: OutputLora,
    text: tuple[Tensor, Tensor],
    step: int,
) -> tuple[Tensor, float]:
    """Return a step's mean loss and its mean tokens a cycle, bonus included."""
    sequences, begins = text
    generator = torch.Generator().manual_seed((recipe.seed << 32) + step)
    chosen = torch.randint(len(sequences), (recipe.sequences,), generator=generator)
    clean, first = sequences[chosen], begins[chosen][:, None]
    last = clean.shape[1] - recipe.block_length
    places = torch.rand(recipe.sequences, recipe.blocks, generator=generator)
    starts = first + (places * (last - first)).long()
    draft, verifier = _rows(recipe, backbone, lora, clean, starts)
    loss, matches = drafter_losses(draft, verifier, recipe)
    deciding = (matches + 1).clamp(max=recipe.block_length - 1).sum()
    return loss / deciding, matches.float().mean().item() + 1


def _rows(
    recipe: DrafterRecipe,
    backbone: PlainBackbone,
    lora: OutputLora,
    clean: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the logits of all blocks' masked rows, and the verifier's for the same places."""
    batch, length = clean.shape
    dtype, mask = backbone.dtype, backbone.config.mask_token_id
    held: Held = []
    with torch.no_grad():
        look = holding(over(causal(length), dtype), held)
        states = backbone.forward(backbone.embed(clean), torch.arange(length), look)

    k = recipe.block_length
    at = (starts[:, :, None] + torch.arange(k)).flatten(1)
    blocks = torch.full((batch, starts.shape[1], k), mask)
    blocks[:, :, 0] = clean.gather(1, starts)
    owner = torch.arange(starts.shape[1]).repeat_interleave(k)
    before = torch.arange(length) < starts.repeat_interleave(k, dim=1)[:, :, None]
    same = (owner[:, None] == owner[None, :]).expand(batch, -1, -1)
    look = behind(held, Sight.of(torch.cat((before, same), dim=2), dtype))
    drafted = backbone.forward(backbone.embed(blocks.flatten(1)), at, look, lora.adapter(dtype))
    draft = drafted.view(batch * starts.shape[1], k, -1)[:, 1:]
    predicting = at.view(batch, -1, k)[:, :, 1:].flatten(1) - 1
    rows = states.gather(1, predicting[:, :, None].expand(-1, -1, states.shape[2]))
    with torch.no_grad():
        verifier = backbone.head(rows).view(batch * starts.shape[1], k - 1, -1)
    return backbone.head(draft), verifier


def export_lora(lora: OutputLora, recipe: DrafterRecipe, out: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` in PEFT's layout, bfloat16."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in enumerate(zip(lora.down, lora.up, strict=True)):
        at = f"base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_"
        tensors[at + "A.weight"] = down.detach().to(torch.bfloat16).contiguous()
        tensors[at + "B.weight"] = up.detach().to(torch.bfloat16).contiguous()
    settings = {
        "peft_type": "LORA",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "target_modules": ["o_proj"],
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
    }
    text = json.dumps(settings, indent=2) + "\n"

    def fill(folder: Path) -> None:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")

    out.mkdir(parents=True, exist_ok=True)
    put_files(out, fill)
