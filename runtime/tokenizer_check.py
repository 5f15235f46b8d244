"""What a tokenizer.json may not hold: parts that the library panics on, or that take for ever.

The tokenizers library trusts the file. Some settings end it with a panic while text is encoded,
some make text grow without bound, and a pattern can be tried in exponentially many ways while
nothing can interrupt it. What is looked for here is any part of that kind, wherever it stands.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_ID = 1 << 24
PARTS = 256
"""The most normalizers, pre-tokenizers, decoders and pieces of a template."""
DEPTH = 32
LONGEST_TEXT = 4096
"""The longest text or pattern that one part may bring."""
GROWTH = 32
"""How many times longer all normalizers together may make a text."""
MANY = 16
"""From this count on a repetition in a pattern is as bad as an unbounded one."""


class Unfit(ValueError):  # noqa: N818
    """What is wrong with the file, in words that follow its name."""


def check_tokenizer(data: Any) -> None:
    """Raise Unfit if the content of a tokenizer.json is not one that can be used safely."""
    if not isinstance(data, Mapping):
        raise Unfit("holds no JSON object")
    model = data.get("model")
    if not isinstance(model, Mapping):
        raise Unfit("has no model")
    _check_vocabulary(model)
    _check_added(data.get("added_tokens"))
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        parts = list(_parts(data.get(name), 0))
        if len(parts) > PARTS:
            raise Unfit(f"has more than {PARTS} parts in its {name}")
        growth = 1.0
        for part in parts:
            _check_part(part, name)
            growth *= _growth(part)
        if growth > GROWTH:
            raise Unfit(f"has a {name} that makes a text more than {GROWTH} times longer")


def _check_vocabulary(model: Mapping[str, Any]) -> None:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, Mapping | list) or not vocabulary:
        raise Unfit("has an empty vocabulary")
    if isinstance(vocabulary, list):
        unknown = model.get("unk_id")
        if unknown is None and not model.get("byte_fallback"):
            raise Unfit("has a Unigram model without unk_id, which cannot encode every text")
        if unknown is not None and not (_whole(unknown) and unknown < len(vocabulary)):
            raise Unfit(f"has the unk_id {unknown!r}, which is no token")
        return
    for text, number in vocabulary.items():
        if not _whole(number) or number > LARGEST_ID:
            raise Unfit(f"gives token {text!r} the id {number!r}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        text = model.get(name)
        if text is not None and (not isinstance(text, str) or len(text) > LONGEST_TEXT):
            raise Unfit(f"has a {name} that is no short text")
    prefix = model.get("continuing_subword_prefix")
    if prefix and model.get("type") != "WordPiece":
        size = len(prefix.encode("utf-8", "replace"))
        merges = model.get("merges")
        for merge in merges if isinstance(merges, list) else ():
            right = merge.partition(" ")[2] if isinstance(merge, str) else _last(merge)
            if isinstance(right, str) and len(right.encode("utf-8", "replace")) < size:
                raise Unfit(f"has the merge {merge!r}, whose second part lacks `{prefix}`")
    unknown = model.get("unk_token")
    if unknown is not None and not (isinstance(unknown, str) and unknown in vocabulary):
        raise Unfit(f"has the unk_token {unknown!r}, which is not in its vocabulary")


def _last(merge: Any) -> Any:
    return merge[-1] if isinstance(merge, list) and merge else None


def _check_added(added: Any) -> None:
    if added is None:
        return
    if not isinstance(added, list) or not all(isinstance(token, Mapping) for token in added):
        raise Unfit("has added_tokens that are no list of tokens")
    for token in added:
        if not isinstance(token.get("content"), str):
            raise Unfit("has an added token without a text")
        if not _whole(token.get("id")) or token["id"] > LARGEST_ID:
            raise Unfit(f"gives token {token['content']!r} the id {token.get('id')!r}")


def _parts(part: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield a part and those inside it."""
    if part is None:
        return
    if not isinstance(part, Mapping):
        raise Unfit("has a part that is no JSON object")
    if depth > DEPTH:
        raise Unfit("has parts that are nested too deeply")
    yield part
    for name in ("normalizers", "pretokenizers", "processors", "decoders"):
        inner = part.get(name)
        for each in inner if isinstance(inner, list) else ():
            yield from _parts(each, depth + 1)


def _check_part(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type")
    for name, value in part.items():
        if isinstance(value, str) and name != "precompiled_charsmap" and len(value) > LONGEST_TEXT:
            raise Unfit(f"has a {kind} in its {place} with a {name} of {len(value)} characters")
    if "pattern" in part:
        _check_pattern(part["pattern"], f"a {kind} in its {place}")
    if kind == "FixedLength" and part.get("length") == 0:
        raise Unfit(f"has a FixedLength of 0 in its {place}")
    if kind == "TemplateProcessing":
        _check_template(part)
    if kind == "Precompiled":
        _check_charsmap(part.get("precompiled_charsmap"))


def _check_template(part: Mapping[str, Any]) -> None:
    known = part.get("special_tokens")
    if not isinstance(known, Mapping):
        raise Unfit("has a TemplateProcessing without special_tokens")
    for text, token in known.items():
        ids, texts = (token.get(name) if isinstance(token, Mapping) else () for name in _OF_SPECIAL)
        if not isinstance(ids, list) or not isinstance(texts, list) or len(ids) != len(texts):
            raise Unfit(f"has a TemplateProcessing whose special token `{text}` is not spelt out")
        if len(ids) > PARTS or not all(_whole(number) and number <= LARGEST_ID for number in ids):
            raise Unfit(f"has a TemplateProcessing whose special token `{text}` is no token")
    for name, allowed in (("single", ("A",)), ("pair", ("A", "B"))):
        pieces = part.get(name)
        if not isinstance(pieces, list) or len(pieces) > PARTS:
            raise Unfit(f"has a TemplateProcessing whose `{name}` is no short list")
        for piece in pieces:
            _check_piece(piece, name, allowed, known)


_OF_SPECIAL = ("ids", "tokens")


def _check_piece(piece: Any, name: str, allowed: tuple[str, ...], known: Mapping[str, Any]) -> None:
    data = piece if isinstance(piece, Mapping) else {}
    for kind, choices in (("SpecialToken", known), ("Sequence", allowed)):
        if kind in data:
            found = data[kind].get("id") if isinstance(data[kind], Mapping) else None
            if not isinstance(found, str) or found not in choices:
                raise Unfit(f"has a TemplateProcessing whose `{name}` names {found!r}")
            return
    raise Unfit(f"has a TemplateProcessing whose `{name}` holds {piece!r}")


def _check_charsmap(value: Any) -> None:
    try:
        data = base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 0 < size <= len(data) - 4:
        raise Unfit("has a Precompiled normalizer whose map is damaged")


def _check_pattern(pattern: Any, what: str) -> None:
    data = pattern if isinstance(pattern, Mapping) else {"String": pattern}
    text = data.get("Regex", data.get("String"))
    if not isinstance(text, str) or not text:
        raise Unfit(f"has {what} with an empty pattern")
    if len(text) > LONGEST_TEXT:
        raise Unfit(f"has {what} with a pattern of {len(text)} characters")
    if "Regex" in data and repeats_a_repetition(text):
        raise Unfit(
            f"has {what} whose pattern {text!r} repeats a repetition, which can take for ever"
        )


def _growth(part: Mapping[str, Any]) -> float:
    content = part.get("content")
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    pattern = part.get("pattern")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    least = len(text.encode("utf-8", "replace")) if isinstance(text, str) else 1
    return max(1.0, len(content.encode("utf-8", "replace")) / max(1, least))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def repeats_a_repetition(pattern: str) -> bool:
    """Whether an unbounded repetition repeats a group that itself holds one: `(a+)+`.

    Such a pattern can match a text in exponentially many ways. Groups that never give back what
    they matched, (?>…), and possessive repetitions, `++`, are fine.
    """
    groups: list[tuple[bool, bool]] = []
    repeats, atomic, closed = False, False, False
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        length, unbounded = _quantifier(pattern, place)
        if length:
            possessive = pattern[place + length : place + length + 1] == "+" and letter != "{"
            if unbounded and not possessive:
                if closed:
                    return True
                repeats = True
            elif unbounded and closed:
                closed = False
            place += length + (pattern[place + length : place + length + 1] in ("+", "?"))
            continue
        closed = False
        if letter == "\\":
            place += 2
        elif letter == "[":
            place = _behind_class(pattern, place)
        elif letter == "(":
            groups.append((repeats, atomic))
            repeats, atomic = False, pattern.startswith("(?>", place)
            place += 1
            if pattern[place : place + 1] == "?":
                place += 1
        elif letter == ")" and groups:
            closed = repeats and not atomic
            before, atomic = groups.pop()
            repeats = before or closed
            place += 1
        else:
            place += 1
    return False


def _quantifier(pattern: str, place: int) -> tuple[int, bool]:
    """Return the length of the quantifier at a place, 0 if there is none, and if it is unbounded.

    A count of many is taken for unbounded.
    """
    letter = pattern[place]
    if letter in "*+":
        return 1, True
    if letter == "?":
        return 1, False
    end = pattern.find("}", place)
    if letter != "{" or end < 0:
        return 0, False
    least, comma, most = pattern[place + 1 : end].partition(",")
    if not all(not part or (part.isascii() and part.isdigit()) for part in (least, most)):
        return 0, False
    if not least and not most:
        return 0, False
    is_open = bool(comma) and not most
    return end + 1 - place, is_open or int((most or least)[:9]) >= MANY


def _behind_class(pattern: str, place: int) -> int:
    """Return the place behind a character class, in which others may be nested."""
    depth = 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place += 1
        elif letter == "[":
            depth += 1
            if pattern[place + 1 : place + 2] == "^":
                place += 1
            if pattern[place + 1 : place + 2] == "]":
                place += 1
        elif letter == "]":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return place
