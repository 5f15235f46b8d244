"""AR decoding of the compiled `ar` strategy against transformers' generate(), in one run.

Both decode the same prompt in float32 with their KV cache, taking turns token by token, so that
whatever else the machine does slows both; the prefill is left out. First their greedy texts are
compared; if they differ by more than rounding explains, no speed is printed.

    python benchmarks/ar_vs_transformers.py build/smollm2
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import nldc
from nldc.api import compile as compile_strategy
from nldc.api import load
from nldc.runtime.decoder import Decoder
from nldc.runtime.loading import Backend

PROMPT = "Once upon a time, in a village by the sea, there lived an old fisherman who "
ROUNDING = 1e-3
"""The largest gap between two logits that float32 may decide either way."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    ours, theirs = our_decoder(options.checkpoint), their_model(options.checkpoint)
    prompt = ours.tokenizer.encode(PROMPT * 40)[: options.prompt_tokens]
    count = options.new_tokens
    print_machine(options.threads)
    check_texts(ours, theirs, prompt, count)
    print_floor(ours, prompt, count)
    times = [
        pair for _ in range(options.rounds) for pair in take_turns(ours, theirs, prompt, count)
    ]
    for name, values in zip(("nldc", "transformers"), zip(*times, strict=True), strict=True):
        print(
            f"{name:13} {1 / statistics.median(values):6.2f} tok/s "
            f"(median of {len(values)} tokens; quickest token {min(values) * 1e3:.1f} ms)"
        )
    ratios = sorted(theirs / ours for ours, theirs in times)
    low, high = ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]
    print(
        f"ratio         {statistics.median(ratios):6.2f} "
        f"(median over pairs of tokens; half of them {low:.2f} to {high:.2f})"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, such as build/smollm2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=49)
    return parser.parse_args()


def our_decoder(
    checkpoint: Path, dtype: str = "float32", backend: Backend | None = "torch"
) -> Decoder:
    with tempfile.TemporaryDirectory() as folder:
        artifact = compile_strategy("ar", Path(folder) / "ar")
        return load(artifact).from_checkpoint(
            checkpoint, dtype=dtype, device="cpu", backend=backend
        )


def their_model(checkpoint: Path) -> Any:
    """Return transformers' Llama (Ministral3 for YaRN) with the checkpoint's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, Ministral3Config, Ministral3ForCausalLM

    settings = json.loads((checkpoint / "config.json").read_text())
    drop = ("architectures", "model_type", "dlm_paradigm", "torch_dtype", "mask_token_id")
    settings = {name: value for name, value in settings.items() if name not in drop}
    settings |= {"pad_token_id": None, "eos_token_id": None}
    if settings["rope_parameters"]["rope_type"] == "default":
        model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    else:
        model = Ministral3ForCausalLM(Ministral3Config(**settings)).eval()
    weights: dict[str, Tensor] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(shard)
    names = {name: name.replace("encoder.", "model.", 1) for name in weights}
    names["diffusion_head.weight"] = "lm_head.weight"
    model.load_state_dict({names[name]: values.float() for name, values in weights.items()})
    return model


def take_turns(
    ours: Decoder, theirs: Any, prompt: list[int], count: int
) -> list[tuple[float, float]]:
    """Return the seconds that each token took, ours and theirs, but for the first token's."""
    turns = Turns(ours.stream(prompt, max_new_tokens=count, eos=()))
    generate(theirs, prompt, count, streamer=turns)
    return turns.times


class Turns:
    """A streamer for generate(): each time a token of theirs comes, one of ours is decoded."""

    def __init__(self, ours: Iterator[str]) -> None:
        self.ours = ours
        self.times: list[tuple[float, float]] = []
        self._puts = 0
        self._since = 0.0

    def put(self, _tokens: Tensor) -> None:
        """Take the time of their token, then decode ours; the prompt and first token warm up."""
        theirs = time.perf_counter() - self._since
        self._puts += 1
        if self._puts > 1:
            start = time.perf_counter()
            next(self.ours, None)
            if self._puts > 2:
                self.times.append((time.perf_counter() - start, theirs))
        self._since = time.perf_counter()

    def end(self) -> None:
        """Do nothing: generate() calls this when it is done."""


def generate(model: Any, prompt: list[int], count: int, **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        use_cache=True,
        **options,
    )
    return list(found[0, len(prompt) :].tolist())


def check_texts(decoder: Decoder, model: Any, prompt: list[int], count: int) -> None:
    """Print whether the greedy texts agree; leave if they differ by more than rounding."""
    result = decoder.generate([prompt], max_new_tokens=count, eos=())
    ours, theirs = result.tokens[0], generate(model, prompt, count)
    different = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not different:
        print(f"greedy texts  equal, {len(ours)} tokens")
        return
    place = different[0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + theirs[:place]])).logits[0, -1]
    gap = float(logits[theirs[place]] - logits[ours[place]])
    print(f"greedy texts  differ first at token {place}, logit gap {gap:.1e}")
    if gap > ROUNDING:
        sys.exit("that is more than rounding explains: no speed is reported")


def print_machine(threads: int, dtype: str = "float32") -> None:
    import transformers

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    print(f"device        {model}, {threads} threads, {dtype}")
    print(
        f"versions      nldc {nldc.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, python {platform.python_version()}"
    )


def print_floor(decoder: Decoder, prompt: list[int], count: int) -> None:
    """Print the speed that reading every weight once a token would allow."""
    config = decoder.config
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = config.hidden_size * (2 * query + 2 * key + 3 * config.intermediate_size)
    weights = 4 * (config.num_layers * layer + config.vocab_size * config.hidden_size)
    cache = 4 * config.num_layers * 2 * key * (len(prompt) + count // 2)
    bandwidth = read_bandwidth()
    seconds = (weights + cache) / bandwidth
    print(
        f"memory floor  {(weights + cache) / 1e6:.0f} MB a token at {bandwidth / 1e9:.1f} GB/s "
        f"(measured just now): {seconds * 1e3:.1f} ms, {1 / seconds:.1f} tok/s"
    )


def read_bandwidth() -> float:
    """Return the bytes per second of summing 400 MB, the best of five."""
    values = torch.ones(100_000_000)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - start)
    return values.numel() * 4 / min(times)


if __name__ == "__main__":
    main()
