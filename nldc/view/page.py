"""A page in one file: its styles, its scripts and its data inside, and no other address.

What comes from a strategy, a model or a prompt goes in as data, which scripts show as text; the
policy in the head lets a browser run the page's own scripts and nothing else, whatever data say.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

BEGINNING = "<!doctype html>"
PALETTE = "palette.css"
"""The colours of all pages, the server's too."""
BASE = (PALETTE, "base.css")
THEME = ("theme.js",)
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def page(
    title: str,
    body: str,
    data: Mapping[str, object],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> str:
    """Return a whole page.

    `body` is HTML whose texts the caller has escaped. Each of `data` is plain JSON data, in an
    element of its name that `scripts` read; these and `styles` are names of files in this package,
    read in order behind the ones that all pages share.
    """
    style = "\n".join(map(held, (*BASE, *styles)))
    script = "\n".join(map(held, (*THEME, *scripts)))
    policy = (
        f"default-src 'none'; script-src {_hash_of(script)}; "
        f"style-src {_hash_of(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    shown = escape(_TURNS.sub(lambda found: ascii(found[0])[1:-1], title))
    held_data = "\n".join(
        f'<script type="application/json" id="{escape(name)}">{as_json(value)}</script>'
        for name, value in data.items()
    )
    return f"""{BEGINNING}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{shown}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header class="top">
<h1>{shown}</h1><button id="theme" class="quiet" type="button">Dark</button>
</header>
{body}
{held_data}
<script type="module">{script}</script>
</body>
</html>
"""


def as_json(value: object) -> str:
    """Return data as JSON that ends no element of a page, whatever text is in it.

    What would turn the direction of the text around it is there as an escape that readers see.

    Raises:
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = _TURNS.sub(_named, text)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _named(found: re.Match[str]) -> str:
    """Return what JSON has for the escape of a character, which itself is to be read."""
    return f"\\{ascii(found[0])[1:-1]}"


def held(name: str) -> str:
    """Return the text of a file beside this module."""
    return (files("nldc.view") / "files" / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
