"""`model.generate(custom_generate=…)`: nldc's tokens, on the weights that transformers loaded."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError, PromptError
from nldc.runtime.invariant.linear import Stacked

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", minversion="5.0")

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "nldc" / "demo"
GOLDEN = ROOT / "tests" / "golden_checkpoints" / "random-0"
PROMPTS = ("def f(a, b):\n    return", "import os\n\n\nclass A:\n", "x")
Strategy = Callable[[str], Path]
FORWARD = signature(transformers.LlamaForCausalLM.forward).parameters
CACHE = "cache" if "cache" in FORWARD else "past_key_values"  # it was renamed


def model_of(kind: str, folder: Path) -> Any:
    """Return a released checkpoint as a model of transformers, with tensors of its own names."""
    data = json.loads((folder / "config.json").read_text())
    known = {name: value for name, value in data.items() if name not in ("model_type", "auto_map")}
    config = transformers.AutoConfig.for_model(
        kind, **(known | {"architectures": None, "sliding_window": None, "pad_token_id": 0})
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tensors = {
        name.replace("encoder.", "model.", 1).replace("diffusion_head", "lm_head"): value.float()
        for file in sorted(folder.glob("model*.safetensors"))
        for name, value in load_file(file).items()
    }
    model.load_state_dict(tensors)
    model.name_or_path = str(folder)
    return model


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Strategy:
    root, known = tmp_path_factory.mktemp("artifacts"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in known:
            known[name] = api.compile(name.split("+"), root / name, certify=False)
        return known[name]

    return get


@pytest.fixture(scope="module")
def demo() -> Any:
    return model_of("llama", DEMO)


def decoder_of(artifact: Path, folder: Path = DEMO) -> Decoder:
    made: Decoder = api.load(artifact).from_checkpoint(folder, dtype="float32", device="cpu")
    return made


def encoded(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """Return the prompts filled up on the left, and the mask that says so."""
    ids = [decoder.tokenizer.encode(text) for text in PROMPTS]
    width = max(map(len, ids))
    filled = torch.tensor([[0] * (width - len(each)) + each for each in ids])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in ids])
    return filled, mask


def fresh(found: Tensor, ids: Tensor, want: list[list[int]]) -> list[list[int]]:
    """Return what follows the prompts; what fills the rest up must be the pad token."""
    assert torch.equal(found[:, : ids.shape[1]], ids)
    rows = found[:, ids.shape[1] :].tolist()
    assert all(set(row[len(own) :]) <= {0} for row, own in zip(rows, want, strict=True)), (
        "what follows the end is no padding"
    )
    return [row[: len(own)] for row, own in zip(rows, want, strict=True)]


@pytest.mark.parametrize("name", ["ar", "linear_ss", "linear_ss_lora", "prompt_lookup", "tidar"])
def test_a_batch_gets_nldc_s_own_tokens(compiled: Strategy, demo: Any, name: str) -> None:
    from nldc.hf import custom_generate

    decoder = decoder_of(compiled(name))
    ids, mask = encoded(decoder)
    decode = custom_generate(compiled(name), mask_token_id=3)
    found = demo.generate(ids, attention_mask=mask, max_new_tokens=24, custom_generate=decode)
    want = decoder.generate(list(PROMPTS), max_new_tokens=24).tokens
    assert fresh(found, ids, want) == want
    assert decode.copied == ()
    assert tuple(decode.decoder(demo).model.adapters) == tuple(decoder.model.adapters)


@pytest.mark.parametrize("kind", ["ministral3", "mistral"])
def test_other_types_of_models_get_nldc_s_own_tokens(compiled: Strategy, kind: str) -> None:
    from nldc.hf import custom_generate

    folder = GOLDEN if kind == "ministral3" else DEMO
    model = model_of(kind, folder)
    ids = torch.tensor([[5, 9, 11, 40]])
    decode = custom_generate(compiled("linear_ss"), mask_token_id=64, adapter=None)
    found = model.generate(ids, max_new_tokens=16, custom_generate=decode, pad_token_id=0)
    decoder = decoder_of(compiled("linear_ss"), folder)
    want = decoder.generate([ids[0].tolist()], max_new_tokens=16).tokens
    assert fresh(found, ids, want) == want


def test_models_in_the_released_layout_get_nldc_s_own_tokens(compiled: Strategy) -> None:
    from nldc.hf import custom_generate

    model = released_model(DEMO)
    decode = custom_generate(compiled("linear_ss"))
    ids = torch.tensor([[5, 9, 11, 40]])
    found = model.generate(ids, max_new_tokens=16, custom_generate=decode)
    decoder = decoder_of(compiled("linear_ss"))
    want = decoder.generate([ids[0].tolist()], max_new_tokens=16).tokens
    assert fresh(found, ids, want) == want


def released_model(folder: Path) -> Any:
    """Return the checkpoint as a model with the type and the names of the released class."""

    class Config(transformers.LlamaConfig):
        model_type = "nemotron_labs_diffusion"

    class Model(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.encoder = transformers.LlamaModel(config)
            width, size = config.hidden_size, config.vocab_size
            self.diffusion_head = torch.nn.Linear(width, size, bias=False)
            self.post_init()

        def forward(self, input_ids: Any, attention_mask: Any = None, **more: Any) -> Any:
            raise NotImplementedError("nldc computes with the weights alone")

    data = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 0}
    del data["model_type"]
    model = Model(Config(**data)).eval()
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model


def test_greedy_tokens_are_those_of_transformers_too(compiled: Strategy, demo: Any) -> None:
    from nldc.hf import custom_generate

    ids, mask = encoded(decoder_of(compiled("linear_ss")))
    decode = custom_generate(compiled("linear_ss"), mask_token_id=3)
    options = {"attention_mask": mask, "max_new_tokens": 24, "do_sample": False}
    found = demo.generate(ids, custom_generate=decode, **options)
    assert torch.equal(found, demo.generate(ids, **options))


def test_sampling_follows_the_generation_config_and_torch_s_seed(
    compiled: Strategy, demo: Any
) -> None:
    from nldc.hf import custom_generate

    decoder = decoder_of(compiled("linear_ss"))
    ids, mask = encoded(decoder)
    decode = custom_generate(compiled("linear_ss"), mask_token_id=3)
    sampling = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02}

    def sampled(**more: Any) -> Tensor:
        options = {"attention_mask": mask, "max_new_tokens": 16, "do_sample": True}
        found: Tensor = demo.generate(ids, custom_generate=decode, **options, **sampling, **more)
        return found

    want = decoder.generate(list(PROMPTS), max_new_tokens=16, seed=7, **sampling).tokens
    assert fresh(sampled(seed=7), ids, want) == want
    torch.manual_seed(1)
    first, second = sampled(), sampled()
    torch.manual_seed(1)
    assert torch.equal(sampled(), first)
    assert not torch.equal(first, second)


def test_several_sequences_a_prompt_and_several_strategies(compiled: Strategy, demo: Any) -> None:
    from nldc.hf import custom_generate

    decode = custom_generate(compiled("linear_ss+ar"), mask_token_id=3)
    ids = torch.tensor([[40, 41, 42]])
    options = {"max_new_tokens": 8, "custom_generate": decode, "do_sample": True, "top_k": 0}
    found = demo.generate(ids, num_return_sequences=3, seed=1, strategy="ar", **options)
    assert len({tuple(row) for row in found.tolist()}) == 3
    with pytest.raises(PromptError, match="nowhere"):
        demo.generate(ids, strategy="nowhere", **options)
    whole = demo.generate(ids, seed=1, return_dict_in_generate=True, **options)
    assert torch.equal(whole.sequences[:, :3], ids)


def test_a_streamer_is_put_each_token_and_told_of_the_end(compiled: Strategy, demo: Any) -> None:
    from nldc.hf import custom_generate

    class Kept(transformers.generation.BaseStreamer):
        def __init__(self) -> None:
            self.put_: list[list[int]] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.put_.append(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    streamer, ids = Kept(), torch.tensor([[40, 41, 42]])
    decode = custom_generate(compiled("linear_ss"), mask_token_id=3)
    found = demo.generate(ids, max_new_tokens=9, custom_generate=decode, streamer=streamer)
    assert streamer.ended
    assert streamer.put_ == [ids[0].tolist(), *([each] for each in found[0, 3:].tolist())]


# Weights


def test_the_decoder_computes_with_the_model_s_own_memory(compiled: Strategy) -> None:
    from nldc.hf import custom_generate

    model = model_of("llama", DEMO)
    ids = torch.tensor([[40, 41, 42]])
    with torch.inference_mode():
        before = model(ids).logits
    decode = custom_generate(compiled("ar"), mask_token_id=3)
    decoder = decode.decoder(model)
    assert decode.copied == ()
    assert decode.decoder(model) is decoder
    weights = decoder.model.backbone.weights
    assert weights.embedding.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert weights.head.data.data_ptr() == model.lm_head.weight.data_ptr()
    for ours, theirs in zip(weights.layers, model.model.layers, strict=True):
        attention, mlp = theirs.self_attn, theirs.mlp
        assert isinstance(ours.qkv, Stacked)
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        for own, part in zip(ours.qkv.parts, parts, strict=True):
            assert own.data.data_ptr() == part.weight.data_ptr()
        for one, other in (
            (ours.output, attention.o_proj),
            (ours.gate, mlp.gate_proj),
            (ours.up, mlp.up_proj),
            (ours.down, mlp.down_proj),
        ):
            assert one.data.data_ptr() == other.weight.data_ptr()
        assert ours.input_norm.data_ptr() == theirs.input_layernorm.weight.data_ptr()
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, before)


def test_a_second_strategy_moves_nothing_and_moved_weights_are_found_again(
    compiled: Strategy,
) -> None:
    from nldc.hf import custom_generate

    model = model_of("llama", DEMO)
    first = custom_generate(compiled("ar"), mask_token_id=3)
    decoder = first.decoder(model)
    second = custom_generate(compiled("linear_ss"), mask_token_id=3)
    shared = second.decoder(model).model.backbone.weights.layers[0].down
    assert shared.data.data_ptr() == decoder.model.backbone.weights.layers[0].down.data.data_ptr()
    assert first.decoder(model) is decoder
    model.double()
    assert first.decoder(model) is not decoder
    assert first.decoder(model).model.backbone.dtype == torch.float64


def test_what_was_shared_is_saved_and_loaded_as_ever(compiled: Strategy, tmp_path: Path) -> None:
    from nldc.hf import custom_generate

    model = model_of("llama", DEMO)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    custom_generate(compiled("ar"), mask_token_id=3).decoder(model)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


GROWTH = """
import re, sys, tempfile, torch, transformers
from nldc import api
from nldc.hf import custom_generate

def mib(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def model(hidden, layers):
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=1, head_dim=64, pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()

decode = custom_generate(sys.argv[1], mask_token_id=3)
ids = torch.tensor([[5, 6, 7]])
model(64, 1).generate(ids, max_new_tokens=2, custom_generate=decode)
folder = tempfile.mkdtemp()
model(1024, 8).save_pretrained(folder)
large = transformers.AutoModelForCausalLM.from_pretrained(folder)
large(ids)  # so that what lies in the file is here
open("/proc/self/clear_refs", "w").write("5")
before = mib("VmRSS")
large.generate(ids, max_new_tokens=2, custom_generate=decode)
weights = sum(each.numel() * 4 for each in large.parameters()) / 2**20
print(weights, mib("VmHWM") - before, mib("VmRSS") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_no_second_copy_of_the_weights_is_ever_held(compiled: Strategy) -> None:
    command = [sys.executable, "-c", GROWTH, str(compiled("ar"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    weights, peak, after = map(float, done.stdout.split()[-3:])
    assert weights > 250
    assert peak < weights / 3
    assert after < weights / 5


def test_tied_and_unaligned_weights_are_shared_and_odd_widths_copied(compiled: Strategy) -> None:
    from nldc.hf import custom_generate

    def tiny(hidden: int) -> Any:
        config = transformers.LlamaConfig(
            vocab_size=96, hidden_size=hidden, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
            max_position_embeddings=256, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()

    model = tiny(32)
    down = model.model.layers[0].mlp.down_proj.weight
    moved = torch.empty(down.numel() + 1)[1:].view(down.shape)
    down.data = moved.copy_(down.data)
    decode = custom_generate(compiled("ar"), mask_token_id=3)
    weights = decode.decoder(model).model.backbone.weights
    assert decode.copied == ()
    assert weights.head.data.data_ptr() == model.lm_head.weight.data_ptr()
    assert weights.layers[0].down.data.data_ptr() == down.data_ptr()
    odd = tiny(36)
    assert len(decode.decoder(odd).model.backbone.weights.layers) == 1
    assert "encoder.layers.0.mlp.gate_proj.weight" in decode.copied
    found = odd.generate(torch.tensor([[5, 6]]), max_new_tokens=4, custom_generate=decode)
    assert torch.equal(found, odd.generate(torch.tensor([[5, 6]]), max_new_tokens=4))


def test_a_model_that_is_let_go_takes_its_decoder_along(compiled: Strategy) -> None:
    from nldc.hf import custom_generate

    decode = custom_generate(compiled("ar"), mask_token_id=3)
    decode.decoder(model_of("llama", DEMO))
    gc.collect()
    assert not decode._known


# What is refused


class Deaf(transformers.generation.BaseStreamer):
    """Hears of everything and does nothing."""

    def put(self, value: Tensor) -> None:
        """Hear of a token."""

    def end(self) -> None:
        """Hear of the end."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "generation mode beam_search"),
        ({"repetition_penalty": 1.2}, "logits processor RepetitionPenaltyLogitsProcessor"),
        ({"max_time": 5.0}, "stopping criterion MaxTimeCriteria"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, "zeros behind a one"),
        ({"position_ids": torch.tensor([[4, 5, 6]])}, "position_ids"),
        ({"prefix_allowed_tokens_fn": lambda _batch, _ids: [1]}, "prefix_allowed_tokens_fn"),
        ({CACHE: transformers.DynamicCache()}, CACHE),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size"),
        (
            {"num_return_sequences": 2, "do_sample": True, "streamer": Deaf()},
            "a streamer of 2 texts",
        ),
        ({"max_new_tokens": 5000}, "more than the model's context of 4096"),
    ],
)
def test_what_a_strategy_does_not_follow_is_refused_by_name(
    compiled: Strategy, demo: Any, options: dict[str, Any], message: str
) -> None:
    from nldc.hf import custom_generate

    decode = custom_generate(compiled("ar"), mask_token_id=3)
    given = {"max_new_tokens": 4, **options}
    with pytest.raises(PromptError, match=message):
        demo.generate(torch.tensor([[40, 41, 42]]), custom_generate=decode, **given)


def test_prompts_of_embeddings_are_refused(compiled: Strategy, demo: Any) -> None:
    from nldc.hf import custom_generate

    decode = custom_generate(compiled("ar"), mask_token_id=3)
    embedded = demo.get_input_embeddings()(torch.tensor([[40, 41]]))
    with pytest.raises(PromptError, match="inputs_embeds is not supported"):
        demo.generate(inputs_embeds=embedded, max_new_tokens=4, custom_generate=decode)


def test_models_that_are_none_of_these_are_refused(compiled: Strategy) -> None:
    from nldc.hf import custom_generate

    small = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
    decode = custom_generate(compiled("ar"), mask_token_id=3)

    def refused(model: Any, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            decode.decoder(model)

    refused(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**small, **more)), "`qwen3`")
    windows = transformers.MistralConfig(**small, **more, sliding_window=64)
    refused(transformers.MistralForCausalLM(windows), "sliding_window")
    biased = transformers.LlamaConfig(**small, **more, attention_bias=True)
    refused(transformers.LlamaForCausalLM(biased), "attention_bias")
    with_more = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, **more))
    with_more.extra = torch.nn.Linear(2, 2)
    refused(with_more, "has the weight `extra.bias`")
    with_more = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, **more))
    with_more.lm_head.bfloat16()
    refused(with_more, "torch.bfloat16 on cpu, torch.float32 on cpu")
    with pytest.raises(CheckpointError, match="names no mask token"):
        custom_generate(compiled("ar")).decoder(with_more)


# A folder


def test_an_exported_folder_generates_by_its_path(
    compiled: Strategy, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc.hf.folder import export

    modules = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = export(compiled("linear_ss+ar"), tmp_path / "shared")
    decoder = decoder_of(compiled("linear_ss"))
    ids, mask = encoded(decoder)
    options = {"attention_mask": mask, "max_new_tokens": 12, "strategy": "linear_ss"}
    options |= {"custom_generate": str(folder), "trust_remote_code": True, "mask_token_id": 3}
    want = decoder.generate(list(PROMPTS), max_new_tokens=12).tokens
    assert fresh(demo.generate(ids, **options), ids, want) == want
    with pytest.raises(PromptError, match="MaxTimeCriteria"):
        demo.generate(ids, max_time=3.0, **options)


def test_a_model_s_own_folder_is_taken_when_it_is_loaded(
    compiled: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc.hf.folder import export

    modules = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = export(compiled("linear_ss"), tmp_path / "model")
    model_of("llama", DEMO).save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.tensor([[40, 41, 42]])
    want = decoder_of(compiled("linear_ss")).generate([[40, 41, 42]], max_new_tokens=8).tokens
    assert fresh(model.generate(ids, max_new_tokens=8, mask_token_id=3), ids, want) == want


def test_the_page_s_snippets_run(
    compiled: Strategy, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc.hf.folder import export

    page = (ROOT / "docs" / "howto" / "transformers.md").read_text()
    modules = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    demo.save_pretrained("MODEL")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, "MODEL")
    shutil.copytree(compiled("linear_ss"), "build/linear_ss")
    export("build/linear_ss", "build/shared/linear_ss")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found = []
    for block in blocks:
        exec(block, names)
        found.append(names["found"])
    assert len(found) == 2
    assert torch.equal(*found)
