"""Which tokens begin and end a thought, by the files of a checkpoint."""

from __future__ import annotations

from nldc.runtime.text.tokenizer import Tokenizer

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""What models write around their thoughts, each a token."""


def thinking_marks(
    configured: int | None,
    tokenizer: Tokenizer | None,
    start: int | None = None,
    end: int | None = None,
) -> tuple[int | None, int | None]:
    """Return the tokens that start and end thinking, None where a checkpoint names none.

    A caller's `start` and `end` go first. The end is `configured`, the one in config.json, else
    that of tokenizer_config.json, else the token `</think>` or `[/THINK]`. The start is the one
    that tokenizer_config.json names, else that which belongs to the end: `<think>`, `[THINK]`.
    """
    if tokenizer is None:
        return start, configured if end is None else end
    pairs = [tuple(tokenizer.id_of_text(text) for text in pair) for pair in MARKS]
    if end is None:
        end = configured
    if end is None:
        end = tokenizer.id_of("end_think")
    if end is None:
        end = next((last for _, last in pairs if last is not None), None)
    if start is None:
        start = tokenizer.id_of("start_think")
    if start is None and end is not None:
        start = next((first for first, last in pairs if last == end), None)
    return start, end
