"""One or two edits of a valid file: of its bytes, or of its data where it is JSON."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any


class Raw:
    """JSON text that no Python value writes."""

    def __init__(self, text: str) -> None:
        self.text = text


def odd(draw: Random) -> Any:
    """Return a value that a file rarely holds."""
    return draw.choice(
        (
            None, True, False, 0, 1, -1, 2, 7, 64, 2**31, 2**32 - 1, 2**63, 2**64, -(2**63) - 1,
            10**30, 0.5, -0.0, 1e-300, 1e308, 16384.0,
            "", " ", "x", "\0", "\ud800", "../x", "/etc/passwd", "1", "null", "x" * 5000,
            "\x1b[31m", "\u202e", "é" * 200, "{{", "a/b",
            [], {}, [[]], [0], [None], [1, 2, 3], ["x"], {"x": 1}, {"": None}, [{}], [True] * 3,
            Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("9" * 400), Raw("1" + "0" * 5000),
            Raw("[" * 2000 + "]" * 2000), Raw('{"a":' * 1200 + "1" + "}" * 1200),
            Raw('"\\ud83d"'), Raw("01"), Raw("'x'"), Raw(""), Raw('{"a":1,"a":2}'),
        )
    )  # fmt: skip


def edit_data(draw: Random, data: Any) -> Any:
    """Return a copy of JSON data with one place of any depth changed."""
    data = copy.deepcopy(data)
    node, above, key = data, None, None
    while isinstance(node, dict | list) and node and (above is None or draw.random() < 0.75):
        above = node
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        node = node[key]
    if above is None:
        return odd(draw)
    kind = draw.randrange(8)
    if kind == 0:
        del above[key]
    elif kind == 1 and isinstance(above, dict):
        above[draw.choice((f"{key}_", str(key).upper(), "", "\0", "\x1b[2J"))] = above.pop(key)
    elif kind == 2 and isinstance(above, dict):
        above[draw.choice(("x", "__proto__", "\x1b", "type", "\ud800"))] = odd(draw)
    elif kind == 3:
        other = draw.choice(list(above)) if isinstance(above, dict) else draw.randrange(len(above))
        above[key], above[other] = above[other], above[key]
    elif kind == 4 and isinstance(above, list):
        above.insert(draw.randrange(len(above) + 1), draw.choice((odd(draw), node)))
    elif kind == 5 and isinstance(node, int | float) and not isinstance(node, bool):
        above[key] = draw.choice((node + 1, node - 1, -node, node * 2, float(node), str(node)))
    elif kind == 6 and isinstance(node, str):
        above[key] = draw.choice((node + " ", node.upper(), node[:-1], node * 3, f"\x1b{node}"))
    else:
        above[key] = odd(draw)
    return data


def to_json(data: Any) -> bytes:
    """Return JSON text, with raw parts and lone surrogates as they are."""
    raw: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value.text)
            return f"@raw{len(raw) - 1}@"
        if isinstance(value, dict):
            return {str(key): marked(inner) for key, inner in value.items()}
        return [marked(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(marked(data))
    for number, part in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', part)
    return text.encode("utf-8", "surrogatepass")


def edit_json(draw: Random, data: Any) -> bytes:
    """Return the text of JSON data with one or two edits, one of them perhaps of its bytes."""
    if draw.random() < 0.25:
        return edit_bytes(draw, to_json(data))
    data = edit_data(draw, data)
    if draw.random() < 0.4 and isinstance(data, dict | list):
        data = edit_data(draw, data)
    return to_json(data)


def edit_bytes(draw: Random, data: bytes) -> bytes:
    """Return bytes with one or two edits."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(found) + 1)
        end = min(len(found), place + draw.choice((1, 1, 2, 4, 8, 40)))
        kind = draw.randrange(7)
        if kind == 0 and place < len(found):
            found[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[place:end] = draw.randbytes(end - place)
        elif kind == 2:
            del found[place:end]
        elif kind == 3:
            found[place:place] = found[place:end] * draw.choice((1, 2, 50))
        elif kind == 4:
            del found[place:]
        elif kind == 5:
            found[place:place] = draw.choice(
                (b"\0", b"\xff\xfe", b"\x1b[2J", b"\xef\xbb\xbf", b"{", b"[", b"]", b'"', b"\n",
                 b"9" * 300, b"\xed\xa0\x80", b"\xe2\x80\xae", b"\\u0000")
            )  # fmt: skip
        else:
            number = draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 10**6))
            found[place : place + 8] = number.to_bytes(8, "little")
    return bytes(found)
