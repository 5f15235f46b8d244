"""How fast `nldc serve` answers, by strategy and by how many ask at a time.

    python benchmarks/serve.py                               # the demo model on this machine
    make serve-bench                                         # asked by aiperf as well
    python benchmarks/serve.py --shape 8b --device cuda      # random weights of the 8B's shape

The server is a process of its own, and so are clients: ours streams completions over httpx, and
`--aiperf PROGRAM` lets that one ask as well in the first round, without a network. At each
concurrency the strategies take turns, `--rounds` times, so that other work on the machine slows
both; each figure is the median over the rounds. Every answer has exactly `--new-tokens` tokens,
greedy, of a prompt of `--prompt-tokens`. TTFT is the time to the first token, ITL a request's time
from its first token to its last, by the tokens after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "nldc" / "demo"
sys.path.insert(0, str(ROOT))

REPOSITORY = "local/model"
"""What aiperf calls the tokenizer: without a network, it takes only what lies in a hub's cache."""
REVISION = 40 * "0"
HEAD = (
    "| client | at a time | strategy | requests/s | tokens/s | TTFT p50, p99 ms | ITL p50, p99 ms "
    "| tokens/s to the first strategy |"
)
BEGIN = 300.0
"""Seconds in which a server must listen."""


@dataclass(frozen=True)
class Figures:
    """Requests and tokens a second, and milliseconds: half and 99 of 100 requests are below."""

    requests: float
    tokens: float
    ttft: float
    ttft_99: float
    itl: float
    itl_99: float


Found: TypeAlias = dict[tuple[str, int, str], list[Figures]]
"""By client, how many ask at a time, and strategy."""


def main() -> int:
    options = arguments()
    if options.be_server:
        be_server(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        options.tokenizer = tokenizer_of(options, work / "tokenizer")
        head = heading(options)
        print("\n".join(head), flush=True)
        with served(options, work) as url:
            for found in measured(options, url, work):
                lines = ["", *table(options, found), "", f"Load at the end: {load()}."]
                if options.out is not None:
                    options.out.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--strategies", nargs="+", default=["ar", "linear_ss"])
    parser.add_argument("--block-length", type=int, default=16)
    parser.add_argument("--shape", choices=["demo", "8b", "small"], default="demo",
                        help="the demo model, or random weights of that shape")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=4, help="of a round, a client each")
    parser.add_argument("--least", type=int, default=16, help="of a round, at least")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--aiperf", type=Path, help="the program aiperf")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    parser.add_argument("--be-server", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# The server


@contextmanager
def served(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Have a server in a process of its own, and give its address."""
    from nldc import api
    from nldc.reuse import load as source

    files = [api.library().get(name, Path(name)) for name in options.strategies]
    has_blocks = any("block_length" in (source(file).data.get("params") or {}) for file in files)
    settings: dict[str, int | float] = {"block_length": options.block_length} if has_blocks else {}
    artifact = api.compile(options.strategies, work / "artifact", settings, certify=False)
    if options.shape == "demo":
        command = ["-m", "nldc", "serve", str(artifact), "--port", "0", "--device", options.device]
    else:
        command = [str(Path(__file__)), "--be-server", str(artifact), "--shape", options.shape,
                   "--device", options.device, "--tokenizer", str(options.tokenizer)]  # fmt: skip
    log = work / "log"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stderr=file, env={**os.environ, "PYTHONPATH": path}
        )
    try:
        end = time.monotonic() + BEGIN
        while not (place := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not begin:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield place[0]
    finally:
        process.terminate()
        process.wait(60)


def be_server(options: argparse.Namespace) -> None:
    """Serve random weights until a signal comes."""
    from benchmarks.report_script import gpu_report
    from nldc.serve.app import create_app
    from nldc.serve.artifacts import load_together
    from nldc.serve.run import listen, run
    from nldc.serve.settings import Settings

    report = gpu_report()
    given = report.Options(options.device, options.shape == "small", ROOT, ROOT, 0.0)
    backbone, _ = report.random_8b(given)
    kind, ways = load_together([options.be_server])
    backend = "torch" if options.device == "cpu" else "triton"
    decoder = kind(backbone, backend=backend, folder=options.tokenizer)
    app = create_app(decoder, ways, Settings(model_name=options.shape))
    place = listen("127.0.0.1", 0)
    run(app, place, lambda port: print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True))


def tokenizer_of(options: argparse.Namespace, folder: Path) -> Path:
    """Return a folder with the model's tokenizer; that of random weights knows bytes only."""
    if options.shape == "demo":
        return DEMO
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    size = 300 if options.shape == "small" else 131072
    words = ["<unk>", "</s>", "<s>", "<|mask|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f" w{number}" for number in range(size - len(words))]
    made = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(words[:4])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<|mask|>", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


# The clients


def measured(options: argparse.Namespace, url: str, work: Path) -> Iterator[Found]:
    """Yield the figures of every round so far, by client, concurrency and strategy."""
    found: Found = {}
    for strategy in options.strategies:  # what is made once is made here
        asyncio.run(ours(options, url, strategy, 4, 0))
    for concurrency in options.concurrency:
        for turn in range(options.rounds):
            names = options.strategies if turn % 2 == 0 else options.strategies[::-1]
            for strategy in names:
                given = asyncio.run(ours(options, url, strategy, concurrency, turn + 1))
                found.setdefault(("httpx", concurrency, strategy), []).append(given)
                if options.aiperf is not None and turn == 0:
                    given = by_aiperf(options, url, strategy, concurrency, work)
                    found.setdefault(("aiperf", concurrency, strategy), []).append(given)
                print(f"{concurrency} at a time, round {turn + 1}, {strategy}", flush=True)
                yield found


def count_of(options: argparse.Namespace, concurrency: int) -> int:
    return max(int(options.least), int(options.requests) * concurrency)


async def ours(
    options: argparse.Namespace, url: str, strategy: str, concurrency: int, seed: int
) -> Figures:
    """Return what streams of completions came to, so many at a time."""
    import httpx

    count = count_of(options, concurrency)
    prompts = prompts_of(options, count, Random(seed))
    body = {"max_tokens": options.new_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "strategy": strategy, "stream_options": {"include_usage": True}}  # fmt: skip
    waits: list[float] = []
    gaps: list[float] = []

    async def one(client: httpx.AsyncClient, prompt: list[int]) -> None:
        begin = time.perf_counter()
        first = last = 0.0
        tokens = 0
        asked = {**body, "prompt": prompt}
        async with client.stream("POST", "/v1/completions", json=asked) as response:
            if response.status_code != 200:
                raise RuntimeError((await response.aread()).decode())
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise RuntimeError(line)
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                    if event["choices"]:
                        last = time.perf_counter()
                        first = first or last
        if tokens != options.new_tokens:
            raise RuntimeError(f"an answer has {tokens} tokens, not {options.new_tokens}")
        waits.append(1000 * (first - begin))
        gaps.append(1000 * (last - first) / (tokens - 1))

    async def customer(client: httpx.AsyncClient) -> None:
        while prompts:
            await one(client, prompts.pop())

    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(customer(client) for _ in range(concurrency)))
        seconds = time.perf_counter() - begin
    tokens = count * options.new_tokens
    half, most = (lambda values: part(values, 0.5)), (lambda values: part(values, 0.99))
    return Figures(
        count / seconds, tokens / seconds, half(waits), most(waits), half(gaps), most(gaps)
    )


def part(values: Sequence[float], share: float) -> float:
    """Return the value that so much of the others is not above, between two where it must be."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def prompts_of(options: argparse.Namespace, count: int, random: Random) -> list[list[int]]:
    """Return prompts of so many tokens: source code that the demo model has not seen, or noise."""
    length = options.prompt_tokens
    if options.shape != "demo":
        return [[random.randrange(4, 260) for _ in range(length)] for _ in range(count)]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    lines = (DEMO / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    ids = tokenizer.encode("\n".join(json.loads(line)["prompt"] for line in lines)).ids
    starts = [random.randrange(len(ids) - length) for _ in range(count)]
    return [ids[start : start + length] for start in starts]


def by_aiperf(
    options: argparse.Namespace, url: str, strategy: str, concurrency: int, work: Path
) -> Figures:
    """Return what aiperf says of as many requests; nothing is fetched."""
    snapshot = work / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    if not snapshot.exists():
        (snapshot / "refs").mkdir(parents=True)
        (snapshot / "refs" / "main").write_text(REVISION)
        files = snapshot / "snapshots" / REVISION
        files.mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(options.tokenizer / name, files / name)
    out = Path(tempfile.mkdtemp(dir=work))
    extra = {"temperature": 0, "ignore_eos": True, "strategy": strategy}
    count = count_of(options, concurrency)
    command = [str(options.aiperf), "profile", "--model", options.shape, "--url", url,
               "--tokenizer", REPOSITORY, "--endpoint-type", "completions", "--streaming",
               "--concurrency", str(concurrency), "--request-count", str(count),
               "--isl", str(options.prompt_tokens), "--osl", str(options.new_tokens),
               "--random-seed", "1", "--extra-inputs", json.dumps(extra), "--ui", "none",
               "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics",
               "--artifact-dir", str(out)]  # fmt: skip
    apart = {"HF_HUB_CACHE": str(work / "hub"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
             "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"}  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | apart
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    path = out / "profile_export_aiperf.json"
    if done.returncode != 0 or not path.exists():
        raise RuntimeError(f"aiperf failed:\n{(done.stdout + done.stderr)[-4000:]}")
    said = json.loads(path.read_text())
    answered = int(said["request_count"]["avg"])
    if answered != count:
        raise RuntimeError(f"aiperf had {answered} answers of {count}")
    return Figures(
        said["request_throughput"]["avg"],
        said["output_token_throughput"]["avg"],
        *(said["time_to_first_token"][name] for name in ("p50", "p99")),
        *(said["inter_token_latency"][name] for name in ("p50", "p99")),
    )


# What is written


def heading(options: argparse.Namespace) -> list[str]:
    import torch

    given = "" if options.aiperf is None else f", aiperf {aiperf_version(options.aiperf)}"
    command = " ".join(["python", "benchmarks/serve.py", *shown(sys.argv[1:])])
    return [
        f"# Serving, {time.strftime('%Y-%m-%d')}",
        "",
        f"`{command}`",
        "",
        (
            f"{device_name(options.device)}, torch {torch.__version__}, Python "
            f"{platform.python_version()}, httpx {version('httpx')}{given}. Model: "
            f"{options.shape}. Prompts of {options.prompt_tokens} tokens, {options.new_tokens} new "
            f"ones, greedy; block length {options.block_length}. {options.rounds} rounds of "
            f"{', '.join(str(count_of(options, each)) for each in options.concurrency)} requests. "
            f"Load of the machine at the beginning: {load()}."
        ),
    ]


def shown(arguments: Sequence[str]) -> list[str]:
    """Return arguments without the folders of this machine."""
    return [Path(each).name if each.startswith("/") else each for each in arguments]


def aiperf_version(program: Path) -> str:
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True)
    return said.stdout.strip()


def device_name(device: str) -> str:
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name()
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def load() -> str:
    return " ".join(f"{each:.1f}" for each in os.getloadavg())


def table(options: argparse.Namespace, found: Found) -> list[str]:
    lines = [HEAD, "|---|---|---|---|---|---|---|---|"]
    for client in dict.fromkeys(key[0] for key in found):
        for concurrency in options.concurrency:
            base = found.get((client, concurrency, options.strategies[0]), [])
            for strategy in options.strategies:
                rounds = found.get((client, concurrency, strategy), [])
                if not rounds or not base:
                    continue
                rows = zip(*map(astuple, rounds), strict=True)
                requests, tokens, ttft, ttft_99, itl, itl_99 = (median(each) for each in rows)
                ratios = [a.tokens / b.tokens for a, b in zip(rounds, base, strict=False)]
                lines.append(
                    f"| {client} | {concurrency} | `{strategy}` | {requests:.2f} | {tokens:.0f} "
                    f"| {ttft:.0f}, {ttft_99:.0f} | {itl:.1f}, {itl_99:.1f} | {spread(ratios)} |"
                )
    return lines


def spread(values: Sequence[float]) -> str:
    """Return the median, and from where to where the others lie."""
    text = f"{median(values):.2f}"
    return text if len(set(values)) == 1 else f"{text} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
