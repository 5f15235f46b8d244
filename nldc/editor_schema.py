"""The JSON Schema that `nldc schema` prints for editors: a strategy, a variant of one, fragments.

A file that extends another is put together before anything is checked (`nldc.reuse`), so these
models check nothing themselves: they say what may be written.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nldc.editor_texts import ATTRIBUTES, MODELS, OPEN, SECTIONS
from nldc.ir.attributes import ATTRIBUTE
from nldc.schema import (
    Adapter,
    Closed,
    Expression,
    Fragment,
    Include,
    Name,
    Op,
    Param,
    StrategyFile,
)


class Change(BaseModel):
    """Other keys for what is extended; those that are left out stay, and null takes one away."""

    model_config = ConfigDict(extra="allow", frozen=True)


Fragments = dict[Name, Fragment]


class Strategy(StrategyFile):
    """A strategy, written in full."""

    fragments: Fragments = Field(
        default_factory=dict, description="nodes under a name, for this file and others to include"
    )


class ChangedRegion(BaseModel):
    """What differs: nodes that are new or replaced have an `op`; others change; null takes away."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Op | Include | Change | None]


class Variant(Closed):
    """A strategy that extends another, and writes only what differs."""

    nldc: Literal[1]
    name: Name
    extends: str = Field(
        description="a strategy of the library, package:name of an installed package, or a path "
        "below this file's folder"
    )
    summary: str | None = None
    guarantee: Literal["exact", "distribution", "none"] | None = None
    compat: Literal["hf", "sglang", "vllm", "mlx"] | None = None
    params: dict[Name, Param | Change | None] = Field(
        default_factory=dict, description="with a type it is declared anew; null takes it away"
    )
    adapters: dict[Name, Adapter | Change | None] = Field(default_factory=dict)
    limits: dict[Name, int | None] | None = None
    prefill: ChangedRegion | None = None
    carry: dict[Name, Expression | None] | None = None
    step: ChangedRegion | None = None
    steps: dict[Name, ChangedRegion | None] | None = None
    route: dict[Name, str | None] | None = None
    fragments: Fragments = Field(default_factory=dict)


class FragmentFile(Closed):
    """A file that holds fragments only, for strategies to include."""

    nldc: Literal[1]
    fragments: Fragments


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a strategy file, for editors.

    Every mapping, key and word has a description, and in `markdownDescription` the place in
    docs/language.md that says more.
    """
    schema: dict[str, Any] = TypeAdapter(Strategy | Variant | FragmentFile).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nldc strategy"
    for name, form in schema["$defs"].items():
        _describe(name, form)
    return schema


def _describe(name: str, form: dict[str, Any]) -> None:
    """Give a model and its keys their texts."""
    model = MODELS[name]
    page = "docs/language.md#"
    form.update(
        description=model.text, markdownDescription=f"{model.text}\n\n{page}{model.section}"
    )
    for key, value in form.get("properties", {}).items():
        value.pop("title", None)
        if value.get("default", "") is None:
            del value["default"]
        text, words = model.keys.get(key), model.values.get(key, {})
        where = page + SECTIONS.get(key, model.section)
        if key in ATTRIBUTES.get(name, {}):
            attribute = ATTRIBUTE[ATTRIBUTES[name][key]]
            text, words = attribute.question, attribute.values
            where = f"docs/compat.md#{attribute.op}-{attribute.key}"
        assert text is not None, f"say in nldc/editor_texts.py what {name}.{key} is"
        value.update(description=text, markdownDescription=f"{text}\n\n{where}")
        if words and key in OPEN and value.get("type") == "string":
            # what is offered, beside any other text
            del value["type"]
            value["anyOf"] = [{"enum": [*words], "type": "string"}, {"type": "string"}]
        for part in (value, *value.get("anyOf", ())):
            if "enum" in part:
                told = [words[str(word)] for word in part["enum"]]
                part.update(enumDescriptions=told, markdownEnumDescriptions=told)
