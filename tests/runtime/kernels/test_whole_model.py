"""A whole model in kernels: a prefix and the rows behind it against the reference in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from handwritten import CAUSAL, QUADRATIC, quadratic_layout
from interpreted import KERNELS
from kernel_cases import error
from random_model import random_checkpoint
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter, LowRank
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import load_weights
from nldc.runtime.errors import BackendError
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Choice, through_layers
from nldc.runtime.model.scores import ScoreName, Scores, scored
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.model.triton_backend import TritonBackend
from nldc.runtime.reference.attention import over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.choose import choice_of as chosen_by
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.values import Hidden

CPU = torch.device("cpu")
LENGTHS = (5, 66)
DRAFTS = 3
STEP = quadratic_layout(DRAFTS)


@dataclass(frozen=True)
class Forward:
    """The rows of one forward of two sequences: their states, and what the layers made of them."""

    given: Tensor
    found: Tensor


def kernel_of(pattern: Pattern) -> Pattern:
    return replace(pattern, kernel=lambda: KERNELS[pattern])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"num_attention_heads": 6, "head_dim": 8, "hidden_size": 40, "intermediate_size": 72}
    return random_checkpoint(tmp_path_factory.mktemp("model"), seed=3, **settings)


def backend_of(folder: Path, dtype: torch.dtype) -> TritonBackend:
    config = ModelConfig.load(folder)
    backbone = Backbone(config, load_weights(folder, config, dtype, CPU), dtype, CPU)
    backbone.rope.reserve(128)
    return TritonBackend(backbone)


def adapter_of(config: ModelConfig, dtype: torch.dtype) -> Adapter:
    """Return an adapter of rank 4 on query and value, and on output, gate, up and down."""
    torch.manual_seed(4)
    hidden, mlp = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def low(start: int, out: int, width: int) -> LowRank:
        down, up = torch.randn(4, width).to(dtype) / 4, torch.randn(out, 4).to(dtype) / 4
        return LowRank(start, start + out, down, up, 0.5)

    products = {}
    for layer in range(config.num_layers):
        products[layer, "qkv"] = (low(0, query, hidden), low(query + key, key, hidden))
        products[layer, "output"] = (low(0, hidden, query),)
        products[layer, "gate"] = (low(0, mlp, hidden),)
        products[layer, "up"] = (low(0, mlp, hidden),)
        products[layer, "down"] = (low(0, hidden, mlp),)
    return Adapter(products)


def forwards(
    backend: TritonBackend, adapter: Adapter | None = None, adapter_rows: Tensor | None = None
) -> tuple[Forward, ...]:
    """Run the prefix of each of two sequences, and a step of both with the adapter."""
    backbone = backend.backbone
    cache = KVCache(backbone.config, backbone.dtype, CPU)
    slots = tuple(cache.acquire(128) for _ in LENGTHS)
    torch.manual_seed(5)
    found = []
    for own, layout, pattern in (
        ((0,), Layout.causal(LENGTHS[0]), CAUSAL),
        ((1,), Layout.causal(LENGTHS[1]), CAUSAL),
        ((1, 0), STEP, QUADRATIC),
    ):
        last = len(own) == 2
        lengths = tuple(LENGTHS[one] if last else 0 for one in own)
        chosen = tuple(slots[one] for one in own)
        cache.reserve(chosen, [length + layout.size for length in lengths])
        plan = Plan.of(layout, kernel_of(pattern), CPU, backbone.dtype)
        start = torch.tensor(lengths)
        places = Places(chosen, lengths, torch.tensor(chosen), start)
        positions = (start.unsqueeze(1) + plan.offset).reshape(-1)
        states = backbone.embed(torch.randint(backbone.config.vocab_size, positions.shape))
        used = (adapter, adapter_rows) if last else ()
        rows = backend.rows(plan, cache, places, positions, *used)
        before = states.clone()
        made = through_layers(backend, states, rows)
        assert torch.equal(states, before)
        found.append(Forward(states, made))
    return tuple(found)


def reference(
    folder: Path,
    made: tuple[Forward, ...],
    adapter: Adapter | None = None,
    adapter_rows: Tensor | None = None,
) -> Tensor:
    """Return the states of the last forward's rows in float64."""
    model = PlainBackbone.load(folder, torch.float64)
    found = []
    for place, sequence in enumerate((1, 0)):
        length, rows = LENGTHS[sequence], STEP.size
        sees = torch.zeros(length + rows, length + rows, dtype=torch.bool)
        sees[:length, :length] = torch.ones(length, length).tril().bool()
        sees[length:, :length], sees[length:, length:] = visible(STEP, QUADRATIC, length)
        own = made[2].given[place * rows : (place + 1) * rows]
        positions = torch.cat((torch.arange(length), length + STEP.offset))
        marked = torch.zeros(length + rows, dtype=torch.bool)
        if adapter_rows is None:
            marked[length:] = True
        else:
            numbers = adapter_rows - place * rows
            marked[length + numbers[(numbers >= 0) & (numbers < rows)]] = True
        states = model.forward(
            torch.cat((made[sequence].given, own)).double(),
            positions,
            over(sees, torch.float64),
            adapter,
            marked,
        )
        found.append(states[length:])
    return torch.cat(found)


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 2e-6), (torch.bfloat16, 0.06), (torch.float16, 8e-3)]
)
def test_layers_are_those_of_the_reference(folder: Path, dtype: torch.dtype, most: float) -> None:
    made = forwards(backend_of(folder, dtype))
    assert error(made[2].found, reference(folder, made)) < most


def test_layers_are_the_references_and_an_adapter_changes_its_rows_alone(folder: Path) -> None:
    backend = backend_of(folder, torch.float32)
    adapter = adapter_of(backend.backbone.config, torch.float32)
    rows = STEP.size
    masked = torch.cat((torch.arange(DRAFTS, rows), rows + torch.arange(DRAFTS, rows)))
    plain, made = forwards(backend), forwards(backend, adapter, masked)
    wide = adapter_of(backend.backbone.config, torch.float64)
    assert error(made[2].found, reference(folder, made, wide, masked)) < 2e-6
    changed = (made[2].found != plain[2].found).any(1)
    assert changed[masked].all()
    assert int(changed.sum()) == len(masked)


@pytest.mark.long
def test_an_adapter_on_all_rows_changes_all(folder: Path) -> None:
    backend = backend_of(folder, torch.float32)
    adapter = adapter_of(backend.backbone.config, torch.float32)
    wide = adapter_of(backend.backbone.config, torch.float64)
    plain, made = forwards(backend), forwards(backend, adapter)
    assert (made[2].found != plain[2].found).any(1).all()
    assert error(made[2].found, reference(folder, made, wide)) < 2e-6


def test_the_head_chooses_as_torch_would_of_its_logits(folder: Path) -> None:
    backend = backend_of(folder, torch.float32)
    torch.manual_seed(6)
    states = torch.randn(8, 2, 40)[:, 0]  # rows with gaps
    logits = backend.head(states)
    assert error(logits, TorchBackend(backend.backbone).head(states).double()) < 2e-6
    for temperature, top_k, top_p, min_p in (
        (0.0, 5, 0.5, 0.5),
        (1.1, None, 1.0, 0.0),
        (1.1, 1000, None, None),
        (0.9, 30, 0.8, 0.01),
    ):
        best = int(logits[0].argmax())
        for barred in (best,) if top_k == 30 else (None, best):
            choice = choice_of(Sampling(temperature, top_k, top_p, min_p), barred)
            found = backend.head_choose(states, choice)
            assert torch.equal(found, choice.of(logits.view(2, 4, -1))), choice


PLACES = torch.arange(8).view(2, 4)
"""The positions of two sequences of four rows."""


def choice_of(rules: Sampling, barred: int | None, first: int = 0) -> Choice:
    """Return a choice of these sequences from the first one on."""
    seeds = (9, 2**64 - 1)
    members = [
        Member(0, key, replace(rules, seed=seed))
        for key, seed in zip((3, 2**35), seeds, strict=True)
    ]
    own = Lineup.of(members[first:], -1 if barred is None else barred, torch.device("cpu")).rules
    rows = Hidden(torch.zeros(0), PLACES[first:])
    found = chosen_by(own, rows, "allowed" if barred is None else "forbidden")
    assert found is not None
    return found


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(
    ("rules", "dtype", "of"),
    [
        (Sampling(), torch.bfloat16, "chosen"),
        (Sampling(1.1), torch.float32, "given"),
        (Sampling(0.9, min_p=0.01), torch.float32, "chosen, one uncounted"),
    ],
    ids=["greedy", "sampled", "filtered"],
)
def test_a_row_s_scores_are_its_own_however_tokens_are_chosen(
    folder: Path, rules: Sampling, dtype: torch.dtype, of: str
) -> None:
    backend = backend_of(folder, dtype)
    torch.manual_seed(7)
    states = torch.randn(2, 4, 40).to(dtype)
    names: tuple[ScoreName, ...] = ("entropy", "probability", "margin")
    barred = int(backend.head(states[0])[0].argmax())
    choice = choice_of(rules, barred)
    given = torch.arange(16).view(2, 8)[:, ::2] if of == "given" else None
    scores = Scores(names, given, barred + 1 if "uncounted" in of else None)
    tokens, found = backend.head_choose_scored(states, choice, scores)
    logits = backend.head(states.view(8, 40)).view(2, 4, -1)
    assert torch.equal(tokens, choice.of(logits))
    seen, again = backend.head_choose_scored(states, choice.of, scores)
    assert torch.equal(seen, tokens)
    choice = choice_of(rules, barred, first=1)
    scores = replace(scores, tokens=None if given is None else given[1:])
    _, alone = backend.head_choose_scored(states[1:], choice, scores)
    exact = scored(logits.double(), tokens, replace(scores, tokens=given))
    for one, other, own, wanted in zip(found, again, alone, exact, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[1:], own)
        assert one.dtype == torch.float32
        assert error(one, wanted) < 2**-18


def test_log_probabilities_are_the_softmax_s(folder: Path) -> None:
    backend = backend_of(folder, torch.float32)
    torch.manual_seed(8)
    states, tokens = torch.randn(5, 40), torch.tensor([0, 259, 63, 64, 100])
    found = backend.scored(states, tokens)
    log_p = backend.head(states).double().log_softmax(-1)
    assert found.dtype == torch.float32
    assert error(found, log_p[torch.arange(5), tokens]) < 2**-20


def test_numbers_that_kernels_do_not_compute_with_are_refused(folder: Path) -> None:
    with pytest.raises(BackendError, match=r"do not compute in torch\.float64"):
        backend_of(folder, torch.float64)


def test_no_rows_have_no_logits_and_no_choice(folder: Path) -> None:
    backend = backend_of(folder, torch.float32)
    assert backend.head(torch.empty(0, 40)).shape == (0, 260)
