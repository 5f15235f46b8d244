"""The trained sampler: what it reads, that it computes its definition, alone as in company."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from handwritten import CHECKPOINTS
from safetensors.torch import load_file, save_file

from nldc import api, interpret
from nldc.runtime.abi import SAMPLER_FOLDER
from nldc.runtime.checkpoint.sampler import CONFIG, WEIGHTS, SamplerShape, SamplerWeights
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import AdapterError
from nldc.runtime.loading import load_beside
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.reference.model import ReferenceModel
from nldc.runtime.reference.sampler import features, reference

CPU = torch.device("cpu")
SMALL = SamplerShape(width=16, layers=2, heads=2, rows=24, top=4)
OPTIONS = {"device": "cpu", "dtype": "float32", "backend": "torch"}


def weights_of(shape: SamplerShape = SMALL, seed: int = 0, scale: float = 1.0) -> SamplerWeights:
    generator = torch.Generator().manual_seed(seed)
    return SamplerWeights(
        shape,
        {
            name: torch.randn(size, generator=generator) * (scale if len(size) > 1 else 0.1)
            + (len(size) == 1)
            for name, size in shape.tensors().items()
        },
    )


def block(seed: int, batch: int, rows: int, vocabulary: int = 40) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, rows, vocabulary, generator=generator) * 3
    tokens = torch.randint(vocabulary, (batch, rows), generator=generator)
    masked = torch.rand(batch, rows, generator=generator) < 0.6
    return logits, tokens, masked


def test_features_say_of_a_row_what_they_are_named_after() -> None:
    logits, tokens, masked = block(1, 1, 3, vocabulary=5)
    masked = torch.tensor([[False, True, True]])
    found = features(logits, tokens, masked, 2, 7)[0]
    log_p = logits[0].log_softmax(-1)
    best = log_p.sort(-1, descending=True).values
    assert found.shape == (3, 7 + 8)
    torch.testing.assert_close(found[:, :5] * 4, best)
    assert (found[:, 5:7] * 4 == -24).all()  # fewer tokens than are asked for
    entropy = -(log_p.exp() * log_p).sum(-1) / torch.tensor(5.0).log()
    torch.testing.assert_close(found[:, 7], entropy)
    torch.testing.assert_close(found[:, 8], best[:, 0].exp() - best[:, 1].exp())
    torch.testing.assert_close(found[:, 9] * 4, log_p[:, 2])
    assert found[:, 10].tolist() == [0, 1, 1]
    torch.testing.assert_close(found[0, 11] * 4, log_p[0, tokens[0, 0]])
    assert found[1:, 11].tolist() == [0, 0]
    torch.testing.assert_close(found[:, 12], torch.arange(3) / 3)
    torch.testing.assert_close(found[:, 13], torch.full((3,), 2 / 3))
    assert found[:, 14].tolist() == [1, 1, 1]


@pytest.mark.parametrize("rows", [1, 5, 16, 24])
def test_it_computes_its_definition(rows: int) -> None:
    weights = weights_of()
    logits, tokens, masked = block(2, 3, rows)
    found = Sampler(weights)(logits, tokens, masked, 0)
    x = features(logits, tokens, masked, 0, SMALL.top)
    want = reference(SMALL, weights.tensors, x)
    torch.testing.assert_close(found.logit(), want, rtol=1e-3, atol=1e-3)
    assert want.std() > 0.2


def test_a_block_has_the_same_bits_in_any_company() -> None:
    sampler = Sampler(weights_of(SamplerShape(rows=24)))
    logits, tokens, masked = block(3, 9, 17, vocabulary=301)
    whole = sampler(logits, tokens, masked, 0)
    for first in range(9):
        for last in range(first + 1, 10):
            part = slice(first, last)
            alone = sampler(logits[part].clone(), tokens[part], masked[part], 0)
            assert torch.equal(alone, whole[part]), (first, last)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    weights = weights_of()
    weights.save(tmp_path)
    again = SamplerWeights.load(tmp_path, CPU)
    assert again.shape == SMALL
    assert all(torch.equal(again.tensors[name], own) for name, own in weights.tensors.items())


def _settings(folder: Path, **changed: object) -> None:
    data = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**data, **changed}))


def _tensor(folder: Path, name: str, value: torch.Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), name: value}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), "sampler_config.json is missing"),
        (lambda f: (f / CONFIG).write_text("{"), "cannot be read"),
        (lambda f: _settings(f, kind="other"), "describes no sampler"),
        (lambda f: _settings(f, width=2**40), "width = "),
        (lambda f: _settings(f, layers=True), "layers = True"),
        (lambda f: _settings(f, heads=3), "3 heads do not share a width of 16"),
        (lambda f: _settings(f, rows=12), "places.weight"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "truncated"),
        (lambda f: _tensor(f, "extra", torch.ones(1)), "`extra` is no part of a sampler"),
        (lambda f: _tensor(f, "norm.weight", torch.full((16,), torch.nan)), "holds no numbers"),
    ],
)
def test_a_folder_that_holds_no_sampler_is_refused_by_what_is_wrong(
    tmp_path: Path, damage: object, message: str
) -> None:
    weights_of().save(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(AdapterError, match=message):
        SamplerWeights.load(tmp_path, CPU)


# In decoders


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> type[Decoder]:
    out = tmp_path_factory.mktemp("artifacts") / "trained_sampler"
    settings = {"block_length": 8, "safe": 0.5}
    return api.load(api.compile("trained_sampler", out, settings, certify=False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / SAMPLER_FOLDER
    place.mkdir()
    weights_of(scale=1.5).save(place)
    return place


def test_a_decoder_takes_the_sampler_that_lies_beside_the_weights(
    kind: type[Decoder], folder: Path
) -> None:
    for path in CHECKPOINTS[0].iterdir():
        (folder.parent / path.name).symlink_to(path)
    decoder = kind.from_checkpoint(folder.parent, **OPTIONS)  # type: ignore[arg-type]
    assert set(decoder.model.samplers) == {"judge"}
    assert not any("sampler" in note for note in decoder.notes)
    beside = load_beside(kind, decoder, "auto")
    assert beside.model.samplers["judge"] is decoder.model.samplers["judge"]
    result = decoder.generate([[5, 6, 7]], max_new_tokens=6)
    assert result.stats[0].adapters == ("judge",)


def test_without_one_a_row_is_as_safe_as_its_token_is_likely(kind: type[Decoder]) -> None:
    decoder = kind.from_checkpoint(CHECKPOINTS[0], **OPTIONS)  # type: ignore[arg-type]
    assert decoder.notes[-1].startswith("no judge sampler: rows are as safe as")


def test_a_sampler_of_shorter_blocks_is_refused_when_it_is_loaded(
    kind: type[Decoder], tmp_path: Path
) -> None:
    weights_of(SamplerShape(width=16, layers=1, heads=2, rows=7, top=4)).save(tmp_path)
    with pytest.raises(AdapterError, match="blocks of at most 7 rows, not 8"):
        kind.from_checkpoint(CHECKPOINTS[0], adapter=tmp_path, **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_a_compiled_strategy_asks_it_as_the_language_means_it(
    kind: type[Decoder], folder: Path, seed: int
) -> None:
    weights = weights_of(seed=seed, scale=1.5)
    weights.save(folder)
    sampler = Sampler(weights)
    model = ReferenceModel.load(CHECKPOINTS[0])

    def judge(logits: Sequence[Sequence[float]], rows: interpret.HeldRows) -> Sequence[float]:
        values = torch.tensor([logits], dtype=torch.float32)
        tokens, masked = torch.tensor([rows.tokens]), torch.tensor([rows.masked])
        return [float(each) for each in sampler(values, tokens, masked, model.mask_token_id)[0]]

    graph = api.check("trained_sampler", {"block_length": 8, "safe": 0.5}).graph
    decoder = kind.from_checkpoint(CHECKPOINTS[0], adapter=folder, **OPTIONS)  # type: ignore[arg-type]
    prompts = [[5, 6, 7], [9, 4], [3, 3, 8, 1]]
    result = decoder.generate(prompts, max_new_tokens=20)
    bare = kind.from_checkpoint(CHECKPOINTS[0], **OPTIONS)  # type: ignore[arg-type]
    without = bare.generate(prompts, max_new_tokens=20)
    for number, prompt in enumerate(prompts):
        want = interpret.run(graph, model, prompt, 20, samplers={"judge": judge})
        stats = result.stats[number]
        assert (tuple(result.tokens[number]), stats.nfe) == (want.tokens, want.nfe)
    assert [each.nfe for each in result.stats] != [each.nfe for each in without.stats]
