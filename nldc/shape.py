"""Hold one part of a file against its pydantic model; each misfit becomes a placed diagnostic.

A pydantic error's `loc` is not a path into the file: it holds the tags of unions and names keys
that are missing. Here it is walked along the data, and what the data does not have is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from nldc.diagnostics import Diagnostic, Label, nearest
from nldc.source import Path, Source

Model = TypeVar("Model", bound=BaseModel)

UNKNOWN_KEY = "NLD010"
MISSING_KEY = "NLD011"
WRONG_VALUE = "NLD012"
FORMS = {
    "attention": "write `attention: causal`, `attention: bidirectional`, or a predicate over q and "
    'k: `attention: "k.prefix or k.row <= q.row"`',
    "cache": "write `cache: read`, `cache: append`, or `cache: {append: PREDICATE}`",
    "type": "write `type: int` or `type: float`",
    "default": "write the whole form, as in `{type: int, default: 6, min: 1, max: 64}`",
    "min": "write the whole form, as in `{type: int, default: 6, min: 1, max: 64}`",
    "max": "write the whole form, as in `{type: int, default: 6, min: 1, max: 64}`",
}
"""What may stand for a required key whose values are no mere choice of words."""


def fit(
    source: Source, path: Path, model: type[Model], found: list[Diagnostic], what: str
) -> Model | None:
    """Return the data at `path` as a `model`, or None after adding each misfit to `found`.

    `what` names the part in messages, as in "`accept` node `kept`".
    """
    data = source.at(path)
    try:
        fitting: Model = _adapter(model).validate_python(data)
        return fitting
    except ValidationError as error:
        seen: set[tuple[Path, str]] = set()
        problems = error.errors(include_url=False)
        lacking = _lacking(source, path, problems)
        misspelt = {_meant(source, path, model, problem, lacking) for problem in problems}
        for problem in problems:
            if problem["type"] == "missing" and _walk(source, path, problem["loc"]) in misspelt:
                continue  # said where the misspelt key is
            diagnostic, place = _diagnose(source, path, model, problem, what, lacking)
            if (place, diagnostic.code) not in seen:
                seen.add((place, diagnostic.code))
                found.append(diagnostic)
        return None


def _lacking(source: Source, path: Path, problems: Sequence[Any]) -> dict[Path, str]:
    """Return the key that a mapping lacks, by place, where it has one unknown key and lacks one."""
    lacks: dict[Path, set[str]] = {}
    unknown: dict[Path, set[Path]] = {}
    for problem in problems:
        place, rest = _walk(source, path, problem["loc"])
        if problem["type"] == "missing" and rest:
            lacks.setdefault(place, set()).add(str(rest[-1]))
        elif problem["type"] == "extra_forbidden":
            unknown.setdefault(place[:-1], set()).add(place)
    return {
        place: next(iter(keys))
        for place, keys in lacks.items()
        if len(keys) == len(unknown.get(place, ())) == 1
    }


def _meant(
    source: Source,
    path: Path,
    model: type[BaseModel],
    problem: Any,
    lacking: Mapping[Path, str],
) -> tuple[Path, tuple[str | int, ...]] | None:
    """Return the place of an unknown key's mapping and the key that was meant, or None."""
    if problem["type"] != "extra_forbidden":
        return None
    place, _ = _walk(source, path, problem["loc"])
    meant = nearest(str(place[-1]), _fields_at(model, place[len(path) : -1]))
    meant = meant or lacking.get(place[:-1])
    return None if meant is None else (place[:-1], (meant,))


def _diagnose(
    source: Source,
    path: Path,
    model: type[BaseModel],
    problem: Any,
    what: str,
    lacking: Mapping[Path, str],
) -> tuple[Diagnostic, Path]:
    kind: str = problem["type"]
    loc: tuple[str | int, ...] = problem["loc"]
    place, rest = _walk(source, path, loc)
    if kind == "extra_forbidden":
        allowed = _fields_at(model, place[len(path) : -1])
        return _unknown_key(source, place, allowed, what, lacking.get(place[:-1])), place
    if kind == "missing":
        key = str(loc[-1])
        return (
            Diagnostic(
                MISSING_KEY,
                "error",
                f"{what} lacks `{key}`",
                (Label(source.span(place, key=bool(place)), f"`{key}` is required here"),),
                _describe(model, key),
            ),
            (*place, key),
        )
    del rest
    return (
        Diagnostic(
            WRONG_VALUE,
            "error",
            f"{what}: {_sentence(problem)}",
            (Label(source.span(place), _expected(problem)),),
        ),
        place,
    )


def _walk(
    source: Source, path: Path, loc: tuple[str | int, ...]
) -> tuple[Path, tuple[str | int, ...]]:
    """Follow `loc` along the data from `path`; parts that the data lacks are union tags."""
    place: Path = path
    data = source.at(path)
    rest: list[str | int] = []
    for part in loc:
        is_item = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_item or (isinstance(data, Mapping) and part in data):
            place, data = (*place, part), data[part]
        else:
            rest.append(part)
    return place, tuple(rest)


def _fields_at(model: type[BaseModel], inside: Path) -> tuple[str, ...]:
    """List the keys that are allowed at a place inside the model."""
    if not inside:
        return tuple(model.model_fields)
    definition = _definition(model)
    names: set[str] = set()
    _collect(definition, definition, list(inside), names)
    return tuple(sorted(names))


@cache
def _adapter(model: type[Model]) -> TypeAdapter[Model]:
    return TypeAdapter(model)


@cache
def _definition(model: type[BaseModel]) -> dict[str, Any]:
    return _adapter(model).json_schema()


def _collect(root: dict[str, Any], at: dict[str, Any], inside: list[Any], names: set[str]) -> None:
    if "$ref" in at:
        at = root["$defs"][at["$ref"].rsplit("/", 1)[1]]
    for option in (*at.get("anyOf", ()), *at.get("oneOf", ())):
        _collect(root, option, inside, names)
    if not inside:
        names.update(at.get("properties", {}))
        return
    head, tail = inside[0], inside[1:]
    if isinstance(head, int) and isinstance(at.get("items"), dict):
        _collect(root, at["items"], tail, names)
    elif head in at.get("properties", {}):
        _collect(root, at["properties"][head], tail, names)
    elif isinstance(at.get("additionalProperties"), dict):
        _collect(root, at["additionalProperties"], tail, names)


def _unknown_key(
    source: Source, place: Path, allowed: tuple[str, ...], what: str, lacking: str | None
) -> Diagnostic:
    key = str(place[-1])
    meant = nearest(key, allowed) or lacking
    known = ", ".join(f"`{name}`" for name in allowed)
    return Diagnostic(
        UNKNOWN_KEY,
        "error",
        f"{what} has no key `{key}`",
        (Label(source.span(place, key=True), f"did you mean `{meant}`?" if meant else "unknown"),),
        (f"the keys here are {known}",) if known else (),
    )


def _describe(model: type[BaseModel], key: str) -> tuple[str, ...]:
    field = model.model_fields.get(key)
    if field is None:
        return ()
    if key == "cache" and "op" not in model.model_fields:
        return ("write `cache: keep all`, or `cache: keep` and a count of rows",)
    if key in FORMS:
        return (FORMS[key],)
    choices = _choices(field.annotation)
    return (f"`{key}` is one of {choices}",) if choices else ()


def _choices(annotation: Any) -> str:
    values = getattr(annotation, "__args__", ())
    return (
        ", ".join(f"`{v}`" for v in values)
        if values and all(isinstance(v, (str, int)) for v in values)
        else ""
    )


def _sentence(problem: Any) -> str:
    value = problem.get("input")
    shown = f"`{value}`" if isinstance(value, (str, int, float, bool)) else _named(value)
    return f"{shown} does not fit here"


def _named(value: Any) -> str:
    if value is None:
        return "an empty value"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else "this value"


def _expected(problem: Any) -> str:
    context = problem.get("ctx", {})
    if "expected" in context:
        return f"expected {str(context['expected']).replace(chr(39), '`')}"
    if "expected_tags" in context:
        return f"expected one of {str(context['expected_tags']).replace(chr(39), '`')}"
    if problem["type"] in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        bound = f"{least} or more" if least is not None else f"at most {most}"
        return f"expected {bound} of them, not {context['actual_length']}"
    message = str(problem["msg"]).removeprefix("Input should be ")
    simple = {
        "a valid string": "expected text",
        "a valid integer": "expected a whole number",
        "a valid number": "expected a number",
        "a valid boolean": "expected true or false",
        "a valid list": "expected a list",
        "a valid dictionary": "expected a mapping",
    }
    return simple.get(message, f"expected {message}")
