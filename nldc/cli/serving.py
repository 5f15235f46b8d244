"""The command that serves: `nldc serve`."""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path
from typing import Any

import click

from nldc.cli.completing import offer_artifacts
from nldc.cli.machine import as_json, write_document
from nldc.cli.options import loading, loading_of
from nldc.cli.output import say, start_torch
from nldc.runtime.errors import NldcRuntimeError

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
KEY = "NLDC_API_KEY"


@click.command()
@click.argument(
    "artifacts", metavar="ARTIFACT...", nargs=-1, required=True, shell_complete=offer_artifacts
)
@loading
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@click.option("--name", help="What requests call the model (default: its folder's name).")
@click.option("--chat-template", metavar="NAME|FILE", help="Template of conversations.")
@click.option(
    "--route",
    metavar="RULES",
    help="Which strategy decodes by how many sequences are live, as in `ar: live > 8, linear_ss`.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="What requests get that give none; 0 is greedy.",
)
@click.option(
    "--max-live", type=click.IntRange(1), default=32, show_default=True, help="Sequences at a time."
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Sequences that wait; what comes then is answered 429.",
)
@click.option("--keep-prefixes", metavar="SIZE", help="Cache kept for prompts that begin alike.")
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(1),
    help="The longest prompt (default: the model's context).",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="The most tokens of an answer (default: the model's context).",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=4 << 20,
    show_default=True,
    metavar="BYTES",
    help="The largest body of a request.",
)
@click.option(
    "--max-images",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="The most pictures of a conversation.",
)
@click.option(
    "--images-below",
    type=click.Path(),
    metavar="FOLDER",
    help="Let requests name files below a folder as pictures: file:NAME (default: none).",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest that a request may take.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long requests may go on when the server is told to end (SIGTERM).",
)
@click.option(
    "--api-key-file",
    type=click.Path(),
    help=f"File of keys, one a line, of which requests must show one (or the variable {KEY}).",
)
@click.option("--open-metrics", is_flag=True, help="Let /metrics be read without a key.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    help="Origin whose pages browsers let in; may be given again.",
)
@click.option(
    "--allow-special-tokens", is_flag=True, help="Let texts of messages spell special tokens."
)
@click.option("--log-prompts", is_flag=True, help="Write prompts and answers to the log.")
@click.option(
    "--trace",
    "traced",
    type=click.Path(),
    metavar="FOLDER",
    help="Write what each step of a request did, a file each; tokens only with --log-prompts. "
    "Steps are launched one by one, without graphs.",
)
@click.option(
    "--trace-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="The most that traces may take; the oldest go.",
)
@as_json
def serve(
    artifacts: tuple[str, ...],
    model: str | None,
    host: str,
    port: int,
    as_json: bool,
    traced: str | None,
    trace_size: int,
    **options: Any,
) -> None:
    """Serve compiled ARTIFACTs behind OpenAI's API: /v1/chat/completions, /v1/completions.

    A page to try them is at /. Of several strategies the first decodes, unless a request names
    another or the route does. A request that says nothing else is sampled at --temperature. The log
    is a line of JSON for each request, on standard error.
    """
    missing = [each for each in NEEDED if importlib.util.find_spec(each) is None]
    if missing:
        raise NldcRuntimeError(
            f"serving needs {', '.join(missing)}", "install the extra: pip install 'nldc[serve]'"
        )
    start_torch()
    from nldc.serve.app import create_app
    from nldc.serve.artifacts import load_together
    from nldc.serve.options import settings_of
    from nldc.serve.run import listen, run

    settings = settings_of({"model": model, **options})
    place = listen(host, port)
    with place:
        loading = loading_of(options, traced=traced is not None)
        traces = None
        if traced is None:
            kind, ways = load_together(artifacts)
        else:
            from nldc.serve.traces import Traces

            most = trace_size << 20
            traces = Traces(Path(traced), artifacts, most, text=settings.log_prompts)
            kind, ways = load_together(artifacts, traces.load)
        decoder = kind.from_checkpoint(model, **loading)
        app = create_app(decoder, ways, settings, traces)

        def begun(port: int) -> None:
            at = f"[{host}]" if ":" in host else host
            root = f"http://{at}:{port}/"
            if as_json:
                write_document(
                    url=f"{root}v1",
                    page=root,
                    model=settings.model_name,
                    strategies=list(ways),
                    route=str(app.state.service.route),
                )
            say(f"serving {settings.model_name} at {root}v1, and its page at {root}")
            say(f"  strategies {', '.join(ways)}; route {app.state.service.route}")
            if not settings.api_keys and not _is_loopback(host):
                say("  anybody who reaches this address may use it: give --api-key-file")

        run(app, place, begun)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
