"""Where the rows of a picture stand in a prompt: behind a start, a break behind each row of cells.

`start, w pads, break, w pads, …, w pads, end`: 1 + h (w + 1) rows for w by h cells, at positions as
those of any text. Only pads are replaced by what the encoder makes; the others keep their words'
embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nldc.runtime.errors import TokenizerError
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.vision.picture import Picture

START, PAD, BREAK, END = (
    "<|image_start|>",
    "<|image_pad|>",
    "<|image_break|>",
    "<|image_end|>",
)
MARKS = (START, PAD, BREAK, END)


@dataclass(frozen=True)
class Marks:
    """The ids of the tokens around and for the cells of a picture."""

    start: int
    pad: int
    line: int
    end: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> Marks:
        """Return them by their names: no config says which they are.

        Raises:
            TokenizerError: the tokenizer lacks one.
        """
        found = {name: tokenizer.id_of_text(name) for name in MARKS}
        missing = [name for name, number in found.items() if number is None]
        if missing:
            raise TokenizerError(
                f"{tokenizer.file} has no token `{missing[0]}`, and so no place for pictures",
                "take the tokenizer of the released vision-language model",
            )
        return Marks(*(number for number in found.values() if number is not None))

    def run(self, width: int, height: int) -> list[int]:
        """Return the ids of the rows of a picture of so many cells across and down."""
        lines = [*[self.pad] * width, self.line] * height
        return [self.start, *lines[:-1], self.end]


def length_of(width: int, height: int) -> int:
    """Return how many rows a picture of so many cells has."""
    return 1 + height * (width + 1)


@dataclass(frozen=True, eq=False)
class Pictured:
    """A prompt of token ids with pictures: `tokens`, and which of its rows stand for each.

    `rows` are the numbers of the pads of each picture, in order; what is said of these rows by
    `tokens` is the mask token, so that nothing that looks up text finds them.
    """

    tokens: tuple[int, ...]
    pictures: tuple[Picture, ...]
    rows: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)


def expanded(
    tokens: Sequence[int],
    pictures: Sequence[Picture],
    cells: Sequence[tuple[int, int]],
    marks: Marks,
    unseen: int,
) -> Pictured:
    """Return a prompt whose starts, one for each picture, have become the rows of the pictures.

    `cells` is the size of each, `unseen` the token that stands for what is no text.
    """
    found: list[int] = []
    rows: list[tuple[int, ...]] = []
    sizes = iter(cells)
    for token in tokens:
        if token != marks.start:
            found.append(token)
            continue
        begin = len(found)
        run = marks.run(*next(sizes))
        rows.append(tuple(begin + n for n, each in enumerate(run) if each == marks.pad))
        found += [unseen if each == marks.pad else each for each in run]
    return Pictured(tuple(found), tuple(pictures), tuple(rows))
