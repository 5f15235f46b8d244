"""Every key and op of the language, from the JSON Schema that editors get, with an example each.

What a key means is said once, in `nldc.schema` and what `nldc schema` makes of it; where a text is
lacking there, its cell is empty here. Examples are taken from the library, then from the documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nldc import api
from nldc.editor_schema import json_schema
from nldc.schema import OPS

ROOT = Path(__file__).parents[2]
WORDS = {
    "integer": "whole number",
    "number": "real number",
    "boolean": "`true` or `false`",
}
LONGEST = 64
"""Characters of a value that is still shown as an example."""
PARTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "The file": (
        ("Strategy", "A strategy"),
        ("IntParam", "A param that is a whole number"),
        ("FloatParam", "A param that is a real number"),
        ("ProfileParam", "A param that is an acceptance profile"),
        ("Adapter", "An adapter"),
        ("Limits", "Limits"),
        ("CarriedCount", "A Count that is carried"),
        ("PrefillEmit", "What a prefill emits"),
        ("StepEmit", "What a step emits"),
    ),
    "Parts of ops": (
        ("Segment", "A segment of rows"),
        ("DealtMasks", "Masks dealt by a profile"),
        ("AppendWhere", "Rows that are appended"),
        ("PredictsWhere", "Rows that predict the next token"),
        ("ConfidenceCommit", "Commit by confidence"),
        ("StepsCommit", "Commit in so many steps"),
    ),
    "Reuse": (
        ("Variant", "A file that extends another"),
        ("Include", "A fragment's use"),
        ("Fragment", "A fragment"),
        ("FragmentFile", "A file of fragments"),
    ),
}
REGIONS = {"Prefill": "nodes by name, and `emit`", "Step": "nodes by name, and `emit`"}
TOLD_BY = {"CarriedCount": "start", "Include": "include", "Fragment": "yields"}
"""The key by which a mapping is known as one of these."""
EXTRA: Mapping[tuple[str, str], str] = {
    ("Limits", "launches"): "40",
    ("Limits", "host_waits"): "1",
    ("Limits", "device_waits"): "0",
    ("Strategy", "limits"): "{launches: 40, host_waits: 1}",
    ("ProfileParam", "default"): "[[40, 25, 9], [20, 31, 16], [4, 8, 30]]",
    ("ProfileParam", "help"): "measured acceptance",
    ("Strategy", "params"): "{block_length: {type: int, default: 16, min: 2, max: 64}}",
    ("Strategy", "adapters"): "{drafter: {kind: lora, optional: true}}",
    ("Strategy", "name"): "linear_ss",
    ("Variant", "name"): "linear_ss_lora",
    ("Strategy", "steps"): "{single: …, speculative: …}",
    ("Strategy", "prefill"): "{context: …, seed: …, emit: {tokens: seed}}",
    ("Strategy", "step"): "{context: …, choice: …, emit: …}",
    ("ForwardOp", "adapter"): "{drafter: kind == mask}",
    ("SampleOp", "temperature"): "0",
    ("SelectOp", "at_most"): "bound",
    ("LeadingOp", "at_most"): "bound",
    ("RepeatOp", "on"): "block",
    ("RepeatOp", "body"): "{seen: …, pick: …, block: …}",
    ("DenoiseOp", "adapter"): "drafter",
    ("DenoiseOp", "position"): "row",
    ("DenoiseOp", "temperature"): "heat",
    ("PredictsWhere", "next"): "kind == draft",
    ("Variant", "params"): "{block_length: {default: 8}}",
    ("Variant", "summary"): "Rows are committed by entropy.",
    ("Variant", "guarantee"): "none",
    ("Variant", "compat"): "vllm",
    ("Variant", "adapters"): "{drafter: null}",
    ("Variant", "limits"): "{launches: 40}",
    ("Variant", "carry"): "{pace: {start: 64}}",
    ("Variant", "prefill"): "{emit: {tokens: seed}}",
    ("Variant", "steps"): "{single: null}",
    ("Variant", "route"): "{single: live > 8}",
    ("Variant", "fragments"): "{confident: …}",
    ("Fragment", "help"): "sure rows are committed",
    ("Fragment", "nodes"): "{seen: …, pick: …}",
    ("FragmentFile", "fragments"): "{confident: …}",
    ("Strategy", "fragments"): "{confident: …}",
}
"""Values for keys whose value in the library is missing or too long to show."""


def pages() -> Iterator[tuple[str, str]]:
    """Yield the reference: its path below docs/, and its text."""
    schema = json_schema()
    defs = schema["$defs"]
    examples = Examples()
    lines = [
        "# Language reference",
        "",
        "Every key and op, from the schema that `nldc schema` prints. [The language](language.md)",
        "tells what they are for. *Needed* keys have no default; a key that is left out and has",
        "none does nothing. An *expression* is a number, or is made of params and values.",
    ]
    for title, models in PARTS.items():
        if title == "Parts of ops":
            lines += _ops(defs, examples)
        lines += ["", f"## {title}"]
        for model, heading in models:
            lines += ["", f"### {heading}", "", *_model(model, defs[model], examples)]
    yield "reference.md", "\n".join(lines) + "\n"


def _ops(defs: Mapping[str, Any], examples: Examples) -> Iterator[str]:
    yield from ("", "## Ops")
    for op, model in OPS.items():
        yield from ("", f"### `{op}`", "")
        yield from _model(model.__name__, defs[model.__name__], examples)
        owner = examples.owner[op]
        yield from ("", f"<!-- part of: {owner} -->" if owner else "<!-- example -->")
        yield from ("```yaml", examples.node[op], "```")


def _model(name: str, form: Mapping[str, Any], examples: Examples) -> Iterator[str]:
    yield from form.get("description", "").replace("\n\n", "\n").splitlines()
    yield from ("", "| key | value | default | for example | |", "| --- | --- | --- | --- | --- |")
    needed = form.get("required", ())
    for key, value in form["properties"].items():
        if key == "op":
            continue
        default = "*needed*" if key in needed else _shown(value.get("default"))
        example = examples.of(name, key, value)
        text = _cell(value.get("description", "") if not _is_expression(value) else "")
        yield f"| `{key}` | {_type(value)} | {default} | `{_cell(example)}` | {text} |"


def _type(value: Mapping[str, Any]) -> str:
    if _is_expression(value):
        return "expression"
    if "$ref" in value:
        return _linked(value["$ref"].rpartition("/")[2])
    if "anyOf" in value or "oneOf" in value:
        forms = [each for each in (value.get("anyOf") or value["oneOf"]) if not _is_null(each)]
        expression = [each for each in forms if each.get("type") in ("integer", "number", "string")]
        if len(expression) == len(("integer", "number", "string")):
            forms = [each for each in forms if each not in expression]
            return " or ".join(["expression", *dict.fromkeys(map(_type, forms))])
        return " or ".join(dict.fromkeys(map(_type, forms)))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{_plain(each)}`" for each in value["enum"])
    match value.get("type"):
        case "array":
            inner = _type(value["items"])
            return f"list of {inner}{'' if ' ' in inner else 's'}"
        case "object":
            inner = value.get("additionalProperties")
            if value.get("patternProperties"):
                inner = next(iter(value["patternProperties"].values()))
            if not isinstance(inner, dict) or not inner:
                return "nodes by name"
            return f"by name: {_type(inner).replace(', by name', '')}"
        case "string":
            return "name" if value.get("pattern", "").startswith("^[A-Za-z]") else "text"
        case other:
            return WORDS.get(str(other), "any value")


def _is_null(form: Mapping[str, Any]) -> bool:
    return form.get("type") == "null"


def _is_expression(value: Mapping[str, Any]) -> bool:
    forms = [each for each in value.get("anyOf", ()) if not _is_null(each)]
    inner = forms[0].get("anyOf", forms) if len(forms) == 1 else forms
    return sorted(str(each.get("type")) for each in inner) == ["integer", "number", "string"]


def _linked(model: str) -> str:
    if model in REGIONS:
        return REGIONS[model]
    if model in ("ChangedRegion", "Change"):
        return "what differs, by name"
    for models in PARTS.values():
        for name, heading in models:
            if name == model:
                return f"[{heading[0].lower()}{heading[1:]}](#{heading.lower().replace(' ', '-')})"
    for op, each in OPS.items():
        if each.__name__ == model:
            return f"[`{op}`](#{op})"
    return model


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(default: Any) -> str:
    if default is None or default in ("", {}, []):
        return ""
    return f"`{yaml.safe_dump(default, default_flow_style=True).split(chr(10))[0]}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("|", "\\|")).strip()


class Examples:
    """Values that the library, else a page, has for a key; and a node for each op.

    `owner` is the strategy that has the node, None where a page does.
    """

    def __init__(self) -> None:
        self.files: list[tuple[str | None, Any]] = []
        texts: list[tuple[str | None, str]] = []
        for name, path in sorted(api.library().items()):
            text = path.read_text("utf-8")
            texts.append((name, text))
            self.files.append((name, yaml.safe_load(text)))
        for page in ("language", "compat"):
            for block in re.findall(
                r"^```yaml\n(.*?)^```$",
                (ROOT / "docs" / f"{page}.md").read_text("utf-8"),
                re.MULTILINE | re.DOTALL,
            ):
                try:
                    self.files.append((None, yaml.safe_load(block)))
                except yaml.YAMLError:  # a form with gaps
                    continue
                texts.append((None, block))
        self.nodes = [node for _, file in self.files for node in _mappings(file)]
        self.node: dict[str, str] = {}
        self.owner: dict[str, str | None] = {}
        for op in OPS:
            self.owner[op], self.node[op] = next(_written(op, texts))

    def of(self, model: str, key: str, form: Mapping[str, Any]) -> str:
        """Return the value of a key in an example.

        Raises:
            LookupError: there is none.
        """
        if (model, key) in EXTRA:
            return EXTRA[model, key]
        found = [_flow(node[key]) for node in self._of(model) if key in node]
        short = [each for each in found if len(each) <= LONGEST]
        if short:
            return max(short[:40], key=len)
        words = [each for each in _words(form) if each not in (None, form.get("default"))]
        if words:
            return _plain(words[0])
        raise LookupError(f"no example of {key} in {model}: write one into EXTRA")

    def _of(self, model: str) -> Iterator[Mapping[str, Any]]:
        nodes = self.nodes
        ops = {each.__name__: op for op, each in OPS.items()}
        if model in ops:
            yield from (node for node in nodes if node.get("op") == ops[model])
        elif model in ("Strategy", "Variant"):
            wanted, other = ("extends", "") if model == "Variant" else ("guarantee", "extends")
            files = (file for _, file in self.files if isinstance(file, dict))
            yield from (file for file in files if wanted in file and other not in file)
        elif model in ("IntParam", "FloatParam", "ProfileParam"):
            kind = {"IntParam": "int", "FloatParam": "float", "ProfileParam": "profile"}[model]
            yield from (node for node in nodes if node.get("type") == kind)
        elif model == "Adapter":
            yield from (node for node in nodes if node.get("kind") in ("lora", "sampler"))
        elif model == "StepEmit":
            yield from (node for node in nodes if "tokens" in node and "next" in node)
        elif model == "PrefillEmit":
            yield from (node["emit"] for node in nodes if set(node.get("emit", ())) == {"tokens"})
        elif model == "Segment":
            yield from (each for node in nodes for each in _list(node.get("segments")))
        elif model == "DealtMasks":
            yield from (node for node in nodes if "profile" in node and "at_most" in node)
        elif model == "AppendWhere":
            yield from (node for node in nodes if set(node) == {"append"})
        elif model in ("ConfidenceCommit", "StepsCommit"):
            yield from (node["commit"] for node in nodes if isinstance(node.get("commit"), dict))
        elif model in TOLD_BY:
            yield from (node for node in nodes if TOLD_BY[model] in node)


def _list(value: Any) -> list[Any]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _words(form: Mapping[str, Any]) -> list[Any]:
    if form.get("type") == "boolean":
        return [True, False]
    if "const" in form:
        return [form["const"]]
    return [
        *form.get("enum", ()),
        *(word for part in form.get("anyOf", ()) for word in _words(part)),
    ]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value
    for each in inner if isinstance(inner, (list, type({}.values()))) else ():
        yield from _mappings(each)


def _written(op: str, texts: Sequence[tuple[str | None, str]]) -> Iterator[tuple[str | None, str]]:
    """Yield where and how an op is written: the longest line of the library first."""
    lines = [
        (name, re.sub(r":\s+\{op", ": {op", line.strip()))
        for name, text in texts
        for line in text.splitlines()
        if re.match(rf"\s*\w+:\s+\{{op: {op}\b.*\}}$", line) and line.count("{") == line.count("}")
    ]
    lines.sort(key=lambda each: (each[0] is None, -len(each[1])))
    yield from lines
    for name, text in texts:
        block = re.search(rf"^( *)(\w+):\n\1  op: {op}\n(?:\1  .*\n)+", text, re.MULTILINE)
        if block:
            indent = len(block[1])
            yield name, "\n".join(line[indent:] for line in block[0].splitlines())
