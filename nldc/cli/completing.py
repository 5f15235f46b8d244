"""What a shell offers behind Tab: strategies, files, artifacts, params, devices; and its script.

Nothing here loads torch but for the numbers of `nldc train`. What cannot be read offers nothing: a
mistake is said when the command is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from nldc.cli.machine import as_json, words_of, write_document
from nldc.cli.output import write

Offered = list[CompletionItem[str]]
Offers = Callable[[click.Context, click.Parameter, str], Offered]
SHELLS = ("bash", "zsh", "fish")
DEVICES = {"cpu": "", "cuda": "the first GPU", "cuda:0": "a GPU by its number"}
TARGETS = {"cuda:80": "A100", "cuda:90": "H100, H200", "cuda:100": "B200", "hip:gfx942": "MI300"}
_STRATEGIES = ("files", "strategies_", "strategy", "what", "a", "b")
"""What commands call the arguments that are strategies."""
_ARTIFACTS = ("artifact", "artifacts", "first", "second")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@as_json
def completion(shell: str, as_json: bool) -> None:
    """Print the script by which a SHELL completes nldc: strategies, files, params, devices.

    bash: nldc completion bash > ~/.local/share/bash-completion/completions/nldc; zsh: into a file
    _nldc in a folder of $fpath; fish: into ~/.config/fish/completions/nldc.fish.
    """
    from nldc.cli.commands import cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "nldc", "_NLDC_COMPLETE").source()
    if as_json:
        write_document(shell=shell, script=script)
    else:
        write(script)


def offer_strategies(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer strategies of the library and of packages, and YAML files."""
    from nldc import packages

    names = [*packages.library()]
    names += [f"{name}:{each}" for name, own in packages.packages().items() for each in own]
    return [*_items(begun, dict.fromkeys(names, "")), *_paths(begun, _is_yaml)]


def offer_codes(ctx: click.Context, param: click.Parameter, begun: str) -> Offered:
    """Offer codes of errors, and whatever is a strategy."""
    from nldc.errors import REGISTRY

    codes = {code: entry.title for code, entry in REGISTRY.items()} if begun else {}
    return [*_items(begun.upper(), codes), *offer_strategies(ctx, param, begun)]


def offer_artifacts(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer folders of compiled strategies."""
    return _paths(begun, _is_artifact)


def offer_params(ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer `name=default` of the params of the strategies that are named before, for --set."""
    from nldc import api

    if ctx.command_path.split(" ")[1:2] == ["train"]:
        return _items(begun, _recipe(ctx.info_name))
    found: dict[str, str] = {}
    for file in _named(ctx, _STRATEGIES):
        for name, declared in api.declared_params(file).items():
            if isinstance(declared, Mapping) and declared.get("type") in ("int", "float"):
                found[f"{name}={declared.get('default')}"] = str(declared.get("help", ""))
    return _items(begun, found)


def offer_brought(ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer the params that an artifact, or a strategy, leaves to requests."""
    from nldc import api

    found: dict[str, str] = {}
    for manifest in _manifests(ctx):
        for each in manifest.get("runtime_params", ()):
            found[f"{each['name']}={each['default']}"] = str(each.get("help", ""))
    for file in _named(ctx, _STRATEGIES):
        for name, declared in api.declared_params(file).items():
            if isinstance(declared, Mapping) and declared.get("runtime") is True:
                found[f"{name}={declared.get('default')}"] = str(declared.get("help", ""))
    return _items(begun, found)


def offer_parts(ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer the strategies of an artifact with several."""
    return _items(begun, {n: "" for each in _manifests(ctx) for n in each.get("strategies", ())})


def offer_devices(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer where a decoder computes."""
    return _items(begun, DEVICES)


def offer_figures(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer devices whose figures come with the package, and files of others' figures."""
    from nldc.cost.device import shipped

    return [*_items(begun, dict.fromkeys(shipped(), "")), *_paths(begun, _is_yaml)]


def offer_targets(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer GPUs that kernels are compiled for."""
    return _items(begun, TARGETS)


def offer_geometries(_ctx: click.Context, _: click.Parameter, begun: str) -> Offered:
    """Offer released geometries, and folders of checkpoints."""
    from nldc.cost.geometry import RELEASED

    return [*_items(begun, dict.fromkeys(RELEASED, "")), *_paths(begun, _is_checkpoint)]


def _items(begun: str, known: Mapping[str, str]) -> Offered:
    return [
        CompletionItem(name, help=" ".join(says.split()) or None)
        for name, says in known.items()
        if name.startswith(begun)
    ]


def _paths(begun: str, is_meant: Callable[[Path], bool]) -> Offered:
    """Offer what is meant and begins so; a folder that may hold more, if there is a choice of them.

    Of a folder that nothing else begins like, what lies in it is offered: a shell would close the
    word behind a folder.
    """
    while True:
        folder, _, name = begun.rpartition("/")
        root = Path(folder or ("/" if begun.startswith("/") else "."))
        found: list[tuple[str, bool]] = []
        for path in _listed(root):
            if path.name.startswith(name) and path.name.startswith(".") <= name.startswith("."):
                shown = begun[: len(begun) - len(name)] + path.name
                if is_meant(path):
                    found.append((shown, True))
                elif path.is_dir():
                    found.append((f"{shown}/", False))
        if len(found) == 1 and not found[0][1] and found[0][0] != begun:
            begun = found[0][0]
            continue
        return [CompletionItem(shown) for shown, _ in found]


def _listed(folder: Path) -> Iterable[Path]:
    with suppress(OSError, ValueError):
        return sorted(folder.iterdir())
    return ()


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") and path.is_file()


def _is_artifact(path: Path) -> bool:
    return (path / "manifest.json").is_file() and (path / "__init__.py").is_file()


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file()


def _named(ctx: click.Context, names: Iterable[str]) -> Iterator[str]:
    """Yield the arguments of the command that have one of these names and were given."""
    given = _given(ctx)
    for name in names:
        value = given.get(name)
        yield from value if isinstance(value, tuple) else () if value is None else (str(value),)


def _given(ctx: click.Context) -> Mapping[str, Any]:
    """Return what was given before the option that is completed.

    Of a line that ends in an option without its value click reads no arguments.
    """
    words = list(words_of(ctx))
    for name in ctx.command_path.split(" ")[1:]:
        del words[: words.index(name) + 1]
    with ctx.command.make_context(
        ctx.info_name, words[:-1], ctx.parent, resilient_parsing=True
    ) as before:
        return before.params


def _manifests(ctx: click.Context) -> Iterator[dict[str, Any]]:
    """Yield what is said of the artifacts of the line, of each of several too."""
    for folder in _named(ctx, _ARTIFACTS):
        path = Path(folder)
        for each in (path / "manifest.json", *sorted(path.glob("*/manifest.json"))):
            with suppress(OSError, ValueError):
                data = json.loads(each.read_text(encoding="utf-8"))
                if isinstance(data, dict):
                    yield data


def _recipe(name: str | None) -> dict[str, str]:
    """Return the numbers of a recipe with their values."""
    from nldc import training

    held = training.recipe_numbers(name or "")
    return {f"{number}={value}": "" for number, value in held.items()}
