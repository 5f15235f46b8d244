"""Random strategies written as an extension of another file, or with a node in a fragment.

What they mean must be what the plain file means, so that everything that is held of random
strategies is held of these as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import yaml

from nldc.ir.words import FRAGMENT
from nldc.source import parse
from tests.lossless.picks import Pick

FORMS = {"prefill": "op", "step": "op", "params": "type", "adapters": "kind", "carry": ""}
OTHER = {"op": {"op": "sample", "logits": "nothing"}, "type": {"type": "float"}, "kind": {}}
KEYS = ("append", "next", "confidence", "steps")
"""Keys below those of a node that are the language's; others name what is in sight."""
WORDS = re.compile(r"[$A-Za-z_][A-Za-z0-9_]*")


def split(text: str, pick: Pick) -> tuple[str, str]:
    """Return a file `base.yaml`, and one that extends it and means what `text` means."""
    data = parse(text).data
    base = {**deepcopy(data), "name": "base"}
    own: dict[str, Any] = {"nldc": 1, "name": data["name"], "extends": "base.yaml"}
    for key in ("summary", "guarantee"):
        if pick.even(("same", "other")) == "other":
            base[key], own[key] = "none", data[key]
    for key in ("prefill", "step", "steps", "params", "adapters", "carry", "route"):
        if key not in data:
            continue
        if key == "steps":
            own[key] = {}
            for name in data[key]:
                base[key][name], own[key][name] = _parted(data[key][name], "op", pick)
        else:
            base[key], own[key] = _parted(data[key], FORMS.get(key, ""), pick)
    return _dumped(base), _dumped(own)


def _parted(things: Mapping[str, Any], form: str, pick: Pick) -> tuple[dict[str, Any], Any]:
    """Return things by name as a base may have them, and what puts them right."""
    base, own, is_tail = dict[str, Any](), dict[str, Any](), True
    for name, thing in reversed(things.items()):
        kind = pick.even(("same", "new", "whole", "keys", "same"))
        if kind == "new" and is_tail and name != "emit":
            own[name] = thing
            continue
        is_tail = is_tail and name == "emit"
        base[name] = thing
        if kind == "whole" and name != "emit":
            base[name] = OTHER[form] if form else "nothing"
            own[name] = thing
        elif kind == "keys" and form and isinstance(thing, dict):
            base[name], own[name] = _keys(thing, form, pick)
    base, own = dict(reversed(base.items())), dict(reversed(own.items()))
    if form == "op" and pick.even(("none", "extra")) == "extra":
        base = {"an_extra_node": OTHER["op"], **base}
        own["an_extra_node"] = None
    return base, own


def _keys(thing: Mapping[str, Any], form: str, pick: Pick) -> tuple[dict[str, Any], Any]:
    """Return a thing with other keys, and the keys that put it right."""
    base, own = dict(thing), dict[str, Any]()
    for key, value in thing.items():
        kind = pick.even(("same", "lacking", "other"))
        if key == form or kind == "same":
            continue
        if key in ("body", "next"):
            base[key], own[key] = _parted(value, "op" if key == "body" else "", pick)
        elif kind == "lacking":
            own[key] = base.pop(key)
        else:
            base[key], own[key] = "nothing", value
    if pick.even(("none", "extra")) == "extra":
        base["an_extra_key"], own["an_extra_key"] = "nothing", None
    return base, own


def sometimes_fragmented(text: str, pick: Pick) -> str:
    """Return one strategy of eight with a node in a fragment, the others as they are."""
    forms = ("whole",) * 7 + ("fragment",)
    return fragmented(text, pick) if pick.even(forms) == "fragment" else text


def fragmented(text: str, pick: Pick) -> str:
    """Return a strategy with one node in a fragment, which takes all that it needs."""
    data = parse(text).data
    if "fragments" in data:
        return text
    key = "step" if "step" in data else "steps"
    regions = [data["step"]] if key == "step" else list(data["steps"].values())
    region = regions[int(pick.even([str(number) for number in range(len(regions))]))]
    known = {*data.get("adapters", {}), *data.get("carry", {}), *region}
    names = [name for name, node in region.items() if name != "emit" and _may_move(node, known)]
    if not names:
        return text
    name = pick.even(names)
    node = {key: value for key, value in region[name].items() if key != "op"}
    used = dict.fromkeys(word for word in _words(node) if word in known)
    takes = {word: f"taken_{number}" for number, word in enumerate(used)}
    own_keys = {key: _renamed(part, takes) for key, part in node.items()}
    inner = {"op": region[name]["op"], **own_keys}
    own: dict[str, Any] = {"takes": list(takes.values()), "nodes": {"it": inner}, "yields": "it"}
    region[name] = {
        "include": "#moved",
        "with": {taken: word for word, taken in takes.items()},
    }
    return _dumped({**data, "fragments": {"moved": own}})


def _may_move(node: Any, known: set[str]) -> bool:
    """Whether all that a node names is in sight, and nothing could be taken for a word."""
    if not isinstance(node, dict) or "op" not in node:
        return False
    if {"body", "segments", "rule", "by", "order", "seed"} & set(node) and node["op"] != "accept":
        return False
    words = {word for key, value in node.items() if key != "op" for word in _words(value)}
    language = {*FRAGMENT, "append", "read", "next", "self", "longest_prefix", "true", "false"}
    return words <= known | language and not words & known & language


def _words(value: Any) -> Iterator[str]:
    """Yield what stands alone in texts, and the names of adapters."""
    if isinstance(value, str):
        for match in WORDS.finditer(value):
            if not value[: match.start()].endswith("."):
                yield match[0]
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in KEYS:
                yield key if isinstance(part, str) else ""
            yield from _words(part)
    elif isinstance(value, list):
        for part in value:
            yield from _words(part)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return WORDS.sub(
            lambda match: (
                match[0] if value[: match.start()].endswith(".") else names.get(match[0], match[0])
            ),
            value,
        )
    if isinstance(value, dict):
        return {
            (key if key in KEYS else names.get(key, key)): _renamed(part, names)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return value


def _dumped(data: Mapping[str, Any]) -> str:
    return str(yaml.dump(dict(data), Dumper=_Plain, sort_keys=False, width=10_000))


class _Plain(yaml.SafeDumper):
    """Writes what stands in two places twice."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True
