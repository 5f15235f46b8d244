"""The application's OpenAPI document: the bodies of requests, which routes read themselves within
limits, so that FastAPI does not know them; and every status that an answer may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nldc.serve.answers import ErrorAnswer
from nldc.serve.fields import NEUTRAL

PLACE = "#/components/schemas/{model}"
ANYWHERE = {401: "no key of this server is shown", 500: "the server failed"}
OF_BODIES = {
    400: "the body cannot be used as it is",
    404: "there is no such model",
    408: "the body took too long to come",
    413: "the body is too large",
    415: "the body is no JSON",
    429: "the queue is full",
    503: "no new requests are taken",
    504: "the deadline has passed",
}
"""What the statuses of failures mean."""
Answers = dict[int | str, dict[str, Any]]


def answers(kind: type[BaseModel], problems: Mapping[int, str] | None = None) -> Answers:
    """Return what a route adds to the document for its answers: one of this kind, or an error."""
    known = {**ANYWHERE, **(problems or {})}
    failures: Answers = {
        status: {"model": ErrorAnswer, "description": said}
        for status, said in sorted(known.items())
    }
    return {200: {"model": kind, "description": "the answer"}, **failures}


def answers_of_bodies(kind: type[BaseModel]) -> Answers:
    """Return the same for a route that reads a body, whose answer may come as a stream."""
    found = answers(kind, OF_BODIES)
    found[200]["content"] = {"text/event-stream": {}}
    return found


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what a route adds to the document for its body."""
    schema = {"$ref": PLACE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def with_schemas(app: FastAPI, model: str, *kinds: type[BaseModel]) -> None:
    """Let the document of an application that serves a `model` hold the schemas of bodies."""
    make = app.openapi
    _, found = models_json_schema([(kind, "validation") for kind in kinds], ref_template=PLACE)
    schemas = found["$defs"]
    for name, schema in schemas.items():
        if name in {kind.__name__ for kind in kinds}:
            schema["properties"]["model"] = {"enum": [model]}
            for each, value in NEUTRAL.items():
                schema["properties"].setdefault(each, {"enum": [value]})
            _let_be_empty(schema, [None])
        elif name == "Message":
            _let_be_empty(schema, [None, []])

    def openapi() -> dict[str, Any]:
        document = make()
        held = document.setdefault("components", {}).setdefault("schemas", {})
        held.update(schemas)
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which never come
            held.pop(name, None)
        for route in document["paths"].values():
            for operation in route.values():
                operation["responses"].pop("422", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _let_be_empty(schema: dict[str, Any], nothing: list[Any]) -> None:
    """Say in a schema which values are as if the field were not there."""
    required = schema.get("required", ())
    for name, each in schema["properties"].items():
        if name not in required:
            schema["properties"][name] = {"anyOf": [each, {"enum": nothing}]}
    schema["additionalProperties"] = {"enum": nothing}
