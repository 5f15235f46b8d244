"""Adapters by name: required ones are there, several are told apart, missing ones are said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from handwritten import CHECKPOINTS, Ar, LinearSS

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import AdapterError
from nldc.runtime.switching import SwitchingDecoder

WITH, FOLDER = CHECKPOINTS[4], "linear_spec_lora"
OPTIONS: dict[str, Any] = {"device": "cpu", "backend": "torch"}


def declaring(*names: str, required: tuple[str, ...] = ()) -> type[Decoder]:
    members = {"ADAPTERS": names, "REQUIRED_ADAPTERS": required, "STRATEGY": "made"}
    return type("Made", (LinearSS,), members)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(FOLDER)
    return Path(shutil.copytree(WITH, tmp_path / "bare", ignore=ignore))


def test_a_required_adapter_that_is_not_there_is_an_error_whoever_left_it_out(bare: Path) -> None:
    kind = declaring("drafter", required=("drafter",))
    message = "the strategy `made` needs the adapter `drafter`"
    for folder, adapter in ((bare, "auto"), (WITH, None), (WITH, {"drafter": None})):
        with pytest.raises(AdapterError, match=message) as caught:
            kind.from_checkpoint(folder, adapter=adapter, **OPTIONS)  # type: ignore[arg-type]
        assert caught.value.hint
    loaded = kind.from_checkpoint(WITH, **OPTIONS)
    assert set(loaded.model.adapters) == {"drafter"}
    with pytest.raises(AdapterError, match=message):
        kind(loaded.model.backbone)
    with pytest.raises(AdapterError, match=message):
        kind.beside(Ar.from_checkpoint(bare, **OPTIONS))


def test_an_optional_adapter_that_is_not_there_is_said_once(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = declaring("drafter").from_checkpoint(bare, **OPTIONS)
    assert decoder.notes == ("no drafter adapter: drafting with base weights",)
    assert [record.getMessage() for record in caplog.records] == list(decoder.notes)
    caplog.clear()
    assert declaring("drafter").from_checkpoint(WITH, **OPTIONS).notes == ()
    assert Ar.from_checkpoint(bare, **OPTIONS).notes == ()
    assert not caplog.records
    declaring("tuned").beside(Ar.from_checkpoint(bare, **OPTIONS))
    (record,) = caplog.records
    assert record.getMessage() == "no tuned adapter: its rows are computed with base weights"


def test_several_adapters_never_get_one_folder_by_themselves() -> None:
    kind = declaring("one", "two")
    with pytest.raises(AdapterError, match="does not say which of them it is") as caught:
        kind.from_checkpoint(WITH, **OPTIONS)
    assert caught.value.hint == "say which is which: one=FOLDER, or one=none"
    with pytest.raises(AdapterError, match="declares the adapters one, two"):
        kind.from_checkpoint(WITH, adapter=WITH / FOLDER, **OPTIONS)
    found = kind.from_checkpoint(WITH, adapter={"one": WITH / FOLDER, "two": None}, **OPTIONS)
    assert set(found.model.adapters) == {"one"}
    assert kind.from_checkpoint(WITH, adapter=None, **OPTIONS).model.adapters == {}


def test_each_of_several_adapters_is_the_checkpoint_s_folder_of_its_name(bare: Path) -> None:
    shutil.copytree(WITH / FOLDER, bare / "two")
    found = declaring("one", "two").from_checkpoint(bare, **OPTIONS)
    assert set(found.model.adapters) == {"two"}
    assert found.notes == ("no one adapter: its rows are computed with base weights",)


def test_an_adapter_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(AdapterError, match="declares no adapter `other`") as caught:
        declaring("drafter").from_checkpoint(WITH, adapter={"other": WITH / FOLDER}, **OPTIONS)
    assert caught.value.hint == "it declares `drafter`"


def test_decoders_beside_one_another_share_weights_and_what_was_loaded() -> None:
    first = declaring("drafter").from_checkpoint(WITH, **OPTIONS)
    second = declaring("other").beside(first)
    assert second.model.backbone is first.model.backbone
    assert second.model.adapters["other"] is first.model.adapters["drafter"]
    assert Ar.beside(first, WITH / FOLDER).model.adapters == {}


def test_stats_tell_which_adapters_there_were(bare: Path) -> None:
    for folder, names in ((WITH, ("drafter",)), (bare, ())):
        decoder = LinearSS.from_checkpoint(folder, **OPTIONS)
        (stats,) = decoder.generate([[4, 8]], max_new_tokens=3).stats
        assert stats.adapters == names


STRATEGY = """
nldc: 1
name: {name}
summary: One causal forward a token, after a look ahead with an adapter.
guarantee: none
params: {{block_length: {{type: int, default: 4, min: 2, max: 8, checkpoint: block_size}}}}
adapters: {{drafter: {{kind: lora{optional}}}}}
prefill:
  context: {{op: forward, tokens: $prompt, attention: causal, cache: append}}
  seed:    {{op: sample, logits: context.last}}
  emit:    {{tokens: seed}}
carry: {{seed: prefill.seed}}
step:
  block:   {{op: rows, segments: [{{tokens: seed}}, {{masks: block_length - 1}}]}}
  drafted: {{op: denoise, rows: block, attention: bidirectional, adapter: drafter,
            commit: {{confidence: 0.0}}}}
  checked: {{op: forward, tokens: drafted, attention: causal, cache: append}}
  choice:  {{op: sample, logits: checked}}
  kept:    {{op: accept, draft: drafted, target: choice, rule: longest_prefix}}
  emit:    {{tokens: kept.tokens, cache: keep kept.rows, next: {{seed: kept.bonus}}}}
"""


def strategy(folder: Path, name: str, *, optional: bool) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(STRATEGY.format(name=name, optional=", optional: true" if optional else ""))
    return path


def test_what_a_file_declares_as_required_the_compiled_decoder_requires(
    bare: Path, tmp_path: Path
) -> None:
    must, may = (strategy(tmp_path, n, optional=n == "may") for n in ("must", "may"))
    with pytest.raises(AdapterError, match="`must` needs the adapter `drafter`"):
        api.load(api.compile(must, tmp_path / "a", certify=False)).from_checkpoint(bare, **OPTIONS)
    api.load(api.compile(may, tmp_path / "b", certify=False)).from_checkpoint(bare, **OPTIONS)
    both = api.load(api.compile([may, must], tmp_path / "c", certify=False))
    assert issubclass(both, SwitchingDecoder)
    with pytest.raises(AdapterError, match="needs the adapter `drafter`"):
        both.from_checkpoint(bare, **OPTIONS)
    assert set(both.from_checkpoint(WITH, **OPTIONS).model.adapters) == {"drafter"}


def test_a_decoder_compiled_for_another_block_size_says_so(tmp_path: Path) -> None:
    file = strategy(tmp_path, "may", optional=True)
    decoder = api.load(api.compile(file, tmp_path / "a", certify=False)).from_checkpoint(
        WITH, **OPTIONS
    )
    own = decoder.config.block_size
    assert own == 32
    (note,) = decoder.notes
    assert note.startswith("compiled with block_length = 4, the checkpoint has block_size 32:")
    several = api.load(
        api.compile([file, "linear_ss"], tmp_path / "b", {"block_length": 8}, certify=False)
    )
    notes = several.from_checkpoint(WITH, **OPTIONS).notes
    assert [note.partition(":")[0] for note in notes] == [
        "compiled with block_length = 8, the checkpoint has block_size 32"
    ]


def test_a_checkpoint_that_was_not_trained_for_rows_ahead_is_named(bare: Path) -> None:
    config = bare / "config.json"
    config.write_text(config.read_text().replace("bidirectional", "autoregressive"))
    ahead = type("Ahead", (LinearSS,), {"DIFFUSES": True, "STRATEGY": "ahead", "ADAPTERS": ()})
    (note,) = ahead.from_checkpoint(bare, **OPTIONS).notes
    assert note.startswith("the checkpoint says dlm_paradigm `autoregressive`: `ahead` computes")
    assert Ar.from_checkpoint(bare, **OPTIONS).notes == ()


def test_generated_decoders_say_whether_they_look_ahead(tmp_path: Path) -> None:
    for name, looks in (
        ("ar", False),
        ("prompt_lookup", False),
        ("linear_ss", True),
        ("tidar", True),
    ):
        decoder = api.load(api.compile(name, tmp_path / name, certify=False))
        assert decoder.DIFFUSES is looks
