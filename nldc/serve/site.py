"""The page at `/`: plain files of this package, which ask the server what any client may ask."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import FastAPI
from fastapi.responses import Response

from nldc.view.page import PALETTE, held

FILES = (
    *("index.html", "page.css", "page.js"),
    *("answer.js", "events.js", "figures.js", "params.js"),
)
"""All that there is of it but the colours; nothing else of the package can be asked for."""
TYPES = {"": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do: read itself, and ask this server."""
PATHS = ("/", *(f"/page/{name}" for name in (*FILES[1:], PALETTE)))
"""Where they lie. They hold no secret, and the page itself asks for the key."""


def add_page(app: FastAPI) -> None:
    """Serve the page and its files."""
    page = files("nldc.serve") / "page"
    texts = [*((page / name).read_text(encoding="utf-8") for name in FILES), held(PALETTE)]
    for path, text in zip(PATHS, texts, strict=True):
        _add(app, path, text.encode())


def _add(app: FastAPI, path: str, text: bytes) -> None:
    kind = f"{TYPES[PurePosixPath(path).suffix]}; charset=utf-8"
    headers = {
        "Content-Type": kind,
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @app.get(path, response_class=Response, include_in_schema=False)
    async def file() -> Response:
        """Return a file of the page."""
        return Response(text, headers=headers)
