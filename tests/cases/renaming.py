"""Another name for everything that a strategy file names, chosen so that names meet if they can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

from nldc.ir.words import COUNT, LABEL, NODE, PARAM
from nldc.reuse import parse

FIELDS = ("tokens", "masked", "filled", "rows", "matches", "bonus", "drafted", "first", "last")
VALUES = (
    *("tokens", "logits", "rows", "where", "among", "score", "draft", "target", "on", "parts"),
    *("scores", "pool", "after"),
)
"""Keys whose texts are references to values; `select`'s `where` is told apart by its op."""
FIXED = ("op", "by", "rule", "until", "offset", "counted", "order", "eos", "eos_ids", "exhausted")

TAKEN = (
    *("batch", "carry", "prompt", "length", "active", "iteration", "self", "ops", "kernels", "tl"),
    *("Batch", "Emit", "Layout", "Tensor", "tensor", "Decoder", "BaseDecoder", "Pattern", "Any"),
    *("class", "lambda", "None", "True", "match", "type", "case", "import", "def", "async", "in"),
    *("range", "dict", "int", "print", "len", "list", "sorted", "rows", "flag", "start", "g", "i"),
    *("causal", "CAUSAL", "bidirectional", "BIDIRECTIONAL", "causal_sees", "causal_kernel", "n"),
    *("triton", "torch", "annotations", "rank", "score", "left", "live", "order", "step_", "STEP"),
    *("generate", "config", "model", "strategies", "device", "q_row", "k_row", "RowFacts", "jit"),
)
"""Words of Python, of the runtime and of generated code."""

Rename = Callable[[str], str]


@dataclass(frozen=True)
class Names:
    """Old names to new ones. Nodes and carried values share theirs."""

    nodes: Mapping[str, str]
    kinds: Mapping[str, str]
    params: Mapping[str, str]
    adapters: Mapping[str, str]
    steps: Mapping[str, str]
    counts: frozenset[str] = frozenset()


def renamed(text: str, seed: int, generated: Iterable[str]) -> tuple[str, Names]:
    """Return the strategy under other names; `generated` are identifiers of its generated code."""
    data = parse(text, "own.yaml").data
    names = _choose(data, Random(seed), sorted(generated))
    steps = data.get("steps") or {"": data.get("step")}
    changed = {
        **data,
        "params": {names.params[name]: each for name, each in data.get("params", {}).items()},
        "adapters": {names.adapters[name]: each for name, each in data.get("adapters", {}).items()},
        "prefill": _region(data["prefill"], names),
        "carry": {
            names.nodes[name]: _begun(begun, names) for name, begun in data.get("carry", {}).items()
        },
    }
    if "steps" in data:
        changed["steps"] = {names.steps[n]: _region(each, names) for n, each in steps.items()}
        changed["route"] = {names.steps[n]: _number(e, names) for n, e in data["route"].items()}
    else:
        changed["step"] = _region(data["step"], names)
    return yaml.safe_dump(changed, sort_keys=False), names


def _choose(data: Mapping[str, Any], random: Random, generated: list[str]) -> Names:
    regions = [data["prefill"], *(data.get("steps") or {"": data.get("step")}).values()]
    nodes = dict.fromkeys([*(n for region in regions for n in _nodes(region)), *data["carry"]])
    kinds = dict.fromkeys(_kinds(data))
    params, adapters = data.get("params", {}), data.get("adapters", {})

    def like(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            yield from (name, name.upper(), name.capitalize(), f"{name}_", f"{name}_rows")
            yield from (f"{name}_logits", f"step_{name}", f"STEP_{name}_ROWS".upper())
            yield from (f"{other}_{name}" for other in nodes)

    pool = [*TAKEN, *like(nodes), *like(kinds), *like(adapters), *generated]
    pool = [name for name in dict.fromkeys(pool) if re.fullmatch(r"[A-Za-z]\w{0,63}", name)]

    # A few of them, in every case, for all kinds of names: then many meet.
    few = random.sample(pool, len(nodes) + 8)
    few = sorted({case(name) for name in few for case in (str, str.lower, str.upper)})

    def draw(names: Iterable[str], refused: Iterable[str]) -> dict[str, str]:
        allowed = [name for name in few if name not in set(refused)]
        return dict(zip(names, random.sample(allowed, len(list(names))), strict=True))

    counts = frozenset(_counts(data, regions))
    named = draw(nodes, (*NODE, *COUNT) if counts else NODE)
    bare = [named[name] for name in counts]
    labels = draw(kinds, (*LABEL, *bare))
    return Names(
        nodes=named,
        kinds=labels,
        params=draw(params, (*PARAM, *labels.values(), *bare)),
        adapters=draw(adapters, ()),
        steps=draw(data.get("steps") or {}, ("prefill", "step", "carry")),
        counts=counts,
    )


def _counts(data: Mapping[str, Any], regions: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what stands bare in expressions: carried Counts, and nodes that count."""
    yield from (name for name, begun in data["carry"].items() if not isinstance(begun, str))
    for region in regions:
        yield from (n for n, node in region.items() if node.get("op") == "leading")


def _nodes(region: Mapping[str, Any]) -> Iterator[str]:
    for name, node in region.items():
        if name != "emit":
            yield name
            yield from _nodes(node.get("body", {}))


def _kinds(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "segments":
                yield from (segment["kind"] for segment in item if "kind" in segment)
            yield from _kinds(item)
    elif isinstance(value, list):
        for item in value:
            yield from _kinds(item)


def _region(region: Mapping[str, Any], names: Names) -> dict[str, Any]:
    return {
        "emit" if name == "emit" else names.nodes[name]: (
            _emit(node, names) if name == "emit" else _node(node, names)
        )
        for name, node in region.items()
    }


def _emit(emit: Mapping[str, Any], names: Names) -> dict[str, Any]:
    changed: dict[str, Any] = {"tokens": _value(emit["tokens"], names)}
    if "cache" in emit:
        kept = emit["cache"].removeprefix("keep ")
        changed["cache"] = "keep " + (kept if kept == "all" else _value(kept, names))
    if "next" in emit:
        changed["next"] = {
            names.nodes[name]: _values(each, names)
            if re.fullmatch(r"[\w.]+(\[.*\])?", str(each)) or isinstance(each, list)
            else _number(each, names)
            for name, each in emit["next"].items()
        }
    return changed


def _node(node: Mapping[str, Any], names: Names) -> dict[str, Any]:
    changed = dict(node)
    for key, value in node.items():
        if key in FIXED or not isinstance(value, str | dict | list):
            continue
        if key == "body":
            changed[key] = _region(value, names)
        elif key == "segments":
            changed[key] = [_segment(each, names) for each in value]
        elif key == "sampler":
            changed[key] = names.adapters[value]
        elif key == "adapter":
            new = names.adapters
            is_name = isinstance(value, str)
            changed[key] = (
                new[value] if is_name else {new[n]: _number(e, names) for n, e in value.items()}
            )
        elif key in VALUES and not (key == "where" and node["op"] == "select"):
            if not (key == "logits" and node["op"] == "mix"):
                changed[key] = _values(value, names)
            else:
                changed[key] = [_value(each, names) for each in value]
        elif isinstance(value, dict):
            changed[key] = {n: _number(each, names) for n, each in value.items()}
        elif key == "always":
            changed[key] = "best " + _number(value.removeprefix("best "), names)
        elif isinstance(value, list):
            changed[key] = [_number(each, names) for each in value]
        elif value not in ("causal", "bidirectional", "read", "append", "next", "self"):
            changed[key] = _number(value, names)
    return changed


def _begun(begun: Any, names: Names) -> Any:
    """Rename what a carried value begins as: a node of the prefill, or the numbers of a Count."""
    if isinstance(begun, str):
        return "prefill." + _value(begun.removeprefix("prefill."), names)
    if isinstance(begun, dict):
        return {k: _number(v, names) if isinstance(v, str) else v for k, v in begun.items()}
    return begun


def _segment(segment: Mapping[str, Any], names: Names) -> dict[str, Any]:
    changed = dict(segment)
    if "tokens" in segment:
        changed["tokens"] = _value(segment["tokens"], names)
    if isinstance(segment.get("masks"), dict):
        dealt = segment["masks"]
        at_most, profile = _number(dealt["at_most"], names), names.params[dealt["profile"]]
        changed["masks"] = {"at_most": at_most, "profile": profile}
    elif "masks" in segment:
        changed["masks"] = _number(segment["masks"], names)
    if "kind" in segment:
        changed["kind"] = names.kinds[segment["kind"]]
    return changed


def _values(value: Any, names: Names) -> Any:
    return (
        [_value(each, names) for each in value] if isinstance(value, list) else _value(value, names)
    )


def _value(text: str, names: Names) -> str:
    """Rename a reference: its node, its kinds, and what stands in its brackets."""
    root, rest = re.fullmatch(r"(\$?\w+)(.*)", text).groups()  # type: ignore[union-attr]
    parts = re.split(r"(\[[^\]]*\])", rest)
    for place, part in enumerate(parts):
        if part.startswith("["):
            parts[place] = _number(part, names)
        else:
            fields = part.split(".")
            parts[place] = ".".join(
                field if field in FIELDS else names.kinds.get(field, field) for field in fields
            )
    return names.nodes.get(root, root) + "".join(parts)


def _number(value: Any, names: Names) -> Any:
    """Rename an expression over params, labels and row facts; a dotted name is a node's count."""
    if not isinstance(value, str):
        return value

    def change(match: re.Match[str]) -> str:
        name = match[0]
        if match.string[match.end() : match.end() + 1] == ".":
            return name if name in ("q", "k") else names.nodes.get(name, name)
        if name in names.counts:
            return names.nodes[name]
        return names.params.get(name, names.kinds.get(name, name))

    return re.sub(r"(?<![\w.])[A-Za-z]\w*", change, value)
