"""What a tokenizer.json may not hold: parts that the library panics on, or that take for ever.

The tokenizers library trusts the file. Some settings end it with a panic while text is encoded,
some make text grow without bound, and a pattern can be tried in exponentially many ways while
nothing can interrupt it. What is looked for here is any part of that kind, wherever it stands.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LARGEST_ID = 1 << 24
PARTS = 256
"""The most normalizers, pre-tokenizers, decoders and pieces of a template."""
DEPTH = 32
LONGEST_TEXT = 4096
"""The longest text or pattern that one part may bring."""
GROWTH = 128
"""How many times longer all that a text goes through together may make it, in bytes."""
LONGEST_WORD = 256
"""The longest word that a WordPiece model may cut up, which takes the cube of its length."""
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
    for way in (("normalizer", "pre_tokenizer", "post_processor"), ("decoder",)):
        passed: list[tuple[Mapping[str, Any], str]] = []
        for name in way:
            parts = list(_parts(data.get(name), 0))
            if len(parts) > PARTS:
                raise Unfit(f"has more than {PARTS} parts in its {name}")
            for part in parts:
                _check_part(part, name)
            passed += [(part, name) for part in parts]
            if all_growth(passed) > GROWTH:
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
    longest = model.get("max_input_chars_per_word", 0)
    if not _whole(longest) or longest > LONGEST_WORD:
        raise Unfit(f"has the max_input_chars_per_word {longest!r}, more than {LONGEST_WORD}")
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
        if sum(len(known[piece["SpecialToken"]["id"]]["ids"]) for piece in pieces
               if "SpecialToken" in piece) > PARTS:  # fmt: skip
            raise Unfit(f"has a TemplateProcessing whose `{name}` adds more than {PARTS} tokens")


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


FORMS = ("NFC", "NFD", "NFKC", "NFKD", "Precompiled")


def all_growth(parts: Iterable[tuple[Mapping[str, Any], str]]) -> float:
    """Return how many times longer parts, each with its place, may make a text one by one.

    Normal forms make few characters longer, and those by much. The one that does most is not
    counted: it does that once, and only where others follow does it come to more.
    """
    total, largest = 1.0, 1.0
    for part, place in parts:
        growth = _growth(part, place)
        total *= growth
        if part.get("type") in FORMS:
            largest = max(largest, growth)
    return total / largest


def _growth(part: Mapping[str, Any], place: str) -> float:
    """Return how many times more bytes, or tokens, may come out of one part than go in."""
    kind = part.get("type")
    if kind == "Replace":
        return _growth_of_replace(part)
    if place == "decoder":
        return 1.0
    if kind == "Precompiled":
        longest = _longest_of_charsmap(part.get("precompiled_charsmap"))
        return max(1.0, min(longest, 4), longest / 3)
    if kind == "ByteLevel" and place != "post_processor":
        # A byte is written as a letter of two, and a piece may be a single byte.
        return 4.0 if part.get("add_prefix_space", True) and place == "pre_tokenizer" else 2.0
    if kind in ("Prepend", "Metaspace"):
        text = part.get("prepend" if kind == "Prepend" else "replacement", "\u2581")
        return 1.0 + _size(text)
    if kind == "TemplateProcessing":
        return max(1.0, sum("Sequence" in piece for piece in part["single"]))
    return {"NFC": 3.0, "NFD": 3.0, "NFKC": 11.0, "NFKD": 11.0, "Lowercase": 2.0,
            "BertNormalizer": 3.0}.get(str(kind), 1.0)  # fmt: skip


def _growth_of_replace(part: Mapping[str, Any]) -> float:
    content = _size(part.get("content"))
    pattern = part.get("pattern")
    data = pattern if isinstance(pattern, Mapping) else {"String": pattern}
    if "Regex" not in data:
        return max(1.0, content / max(1, _size(data.get("String"))))
    # A pattern that may match nothing matches between all letters.
    empty = any(sign in str(data["Regex"]) for sign in ("*", "?", "|", "^", "$", "\\", "{0", "{,"))
    return max(1.0, content + empty)


def _size(text: Any) -> int:
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0


def _longest_of_charsmap(value: Any) -> int:
    """Return the length of the longest text that a checked map puts for a character."""
    data = base64.b64decode(value)
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(len(text) for text in texts.split(b"\0"))


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
