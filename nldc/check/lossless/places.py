"""Where nodes stand in a strategy file."""

from __future__ import annotations

from nldc.diagnostics import Span
from nldc.source import Path, Source


def node_path(node: str, source: Source) -> Path:
    """Return where a node stands in the file: the bodies of loops come between the names."""
    parts = node.split(".")
    path: Path = (parts[0],) if parts[0] in source.data else ("steps", parts[0])
    for part in parts[1:]:
        inside = (*path, "body", part)
        path = inside if inside in source.spans else (*path, part)
        if path not in source.spans:
            return path[:-1] or path
    return path


def node_span(node: str, source: Source, key: str | None = None) -> Span:
    """Return the span of a node's name, or of the value of one of its keys if it is written."""
    path = node_path(node, source)
    if key is not None and (*path, key) in source.spans:
        return source.span((*path, key))
    return source.span(path, key=True)
