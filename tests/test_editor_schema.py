"""The JSON Schema for editors: what fits it, what it says over each key, its published copy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.editor_schema import json_schema
from nldc.editor_texts import ATTRIBUTES, MODELS
from nldc.reuse import load
from nldc.schema import OPS

ROOT = Path(__file__).parents[1]
SCHEMA = json_schema()
FORMS: dict[str, dict[str, Any]] = SCHEMA["$defs"]
KEYS = [(name, key) for name, form in FORMS.items() for key in form.get("properties", {})]


def headings(page: str) -> set[str]:
    """The names of a page's headings in links."""
    found = re.findall(r"^#+ (.*)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


PAGES = {page: headings(page) for page in ("docs/language.md", "docs/compat.md")}


def words(value: Any) -> Iterator[dict[str, Any]]:
    """The parts of a schema that list words."""
    if isinstance(value, dict):
        if "enum" in value:
            yield value
        for each in value.values():
            yield from words(each)
    elif isinstance(value, list):
        for each in value:
            yield from words(each)


@pytest.mark.parametrize("name", FORMS)
def test_every_mapping_of_a_file_is_told_of(name: str) -> None:
    check_text(FORMS[name])


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_every_key_is_told_of_and_points_to_a_section(name: str, key: str) -> None:
    check_text(FORMS[name]["properties"][key])


def check_text(told: dict[str, Any]) -> None:
    text, page = told["markdownDescription"].split("\n\n")
    assert text == told["description"]
    assert text[-1] in ".?"
    file, _, heading = page.partition("#")
    assert heading in PAGES[file]


def test_every_word_that_a_key_takes_is_told_of() -> None:
    found = list(words(SCHEMA))
    assert len(found) > 20
    for each in found:
        assert len(each["enumDescriptions"]) == len(each["enum"])
        assert all(each["enumDescriptions"])


def test_every_op_and_only_what_is_there_has_texts() -> None:
    assert {f"{model.__name__}" for model in OPS.values()} <= set(MODELS)
    assert set(MODELS) == set(FORMS)
    for name, model in MODELS.items():
        keys = set(FORMS[name].get("properties", {}))
        assert set(model.keys) | set(ATTRIBUTES.get(name, {})) == keys
        assert set(model.values) <= keys


def test_the_published_schema_is_the_one_that_is_printed() -> None:
    published = (ROOT / "docs" / "assets" / "nldc.schema.json").read_text("utf-8")
    hint = "nldc schema > docs/assets/nldc.schema.json"
    assert published == CliRunner().invoke(cli, ["schema"]).stdout, hint


# A small reading of JSON Schema, of the words that ours has.


def fits(value: Any, form: dict[str, Any]) -> bool:
    if "$ref" in form and not fits(value, FORMS[form["$ref"].rpartition("/")[2]]):
        return False
    for name, ways in (("anyOf", 1), ("oneOf", 1)):
        if name in form and sum(fits(value, each) for each in form[name]) < ways:
            return False
    if "const" in form and value != form["const"]:
        return False
    if "enum" in form and value not in form["enum"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = form.get("type")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in kinds and not isinstance(value, kinds[kind]):
        return False
    if kind == "integer" and not (is_number and isinstance(value, int)):
        return False
    if kind == "number" and not is_number:
        return False
    if isinstance(value, list):
        return all(fits(each, form.get("items", {})) for each in value)
    if not isinstance(value, dict):
        return True
    if not set(form.get("required", ())) <= set(value):
        return False
    below = [(each, form_of(key, form)) for key, each in value.items()]
    return all(own is not None and fits(each, own) for each, own in below)


def form_of(key: str, form: dict[str, Any]) -> dict[str, Any] | None:
    if key in form.get("properties", {}):
        found: dict[str, Any] = form["properties"][key]
        return found
    for pattern, own in form.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return dict(own)
    others = form.get("additionalProperties", True)
    return {} if others is True else dict(others) if others else None


@pytest.mark.parametrize("name", api.library())
def test_strategies_of_the_library_fit(name: str) -> None:
    assert fits(load(api.library()[name]).data, SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("guarantee: exact", "guarantee: exactly"),
        ("op: forward", "op: forwards"),
        ("cache: append", "cache: appended"),
        ("summary:", "sumary:"),
        ("max: 64", "max: many"),
        ("rule: longest_prefix", "rule: prefix"),
    ],
)
def test_what_is_misspelt_does_not_fit(old: str, new: str, tmp_path: Path) -> None:
    text = api.library()["linear_ss"].read_text("utf-8")
    assert old in text
    path = tmp_path / "other.yaml"
    path.write_text(text.replace(old, new, 1))
    assert not fits(load(path).data, SCHEMA)


def test_the_file_is_plain_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
