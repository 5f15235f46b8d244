"""What came of a row, as a line of JSON and as columns."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Of row `row`: its `text`, of so many `tokens` in `nfe` forwards (`tpf` tokens a forward).

    `finish` is eos, length, stop or error; then `error` says why, and the text is what came before.
    `token_ids` are there if they were asked for.
    """

    row: int
    id: str | None
    text: str = ""
    tokens: int = 0
    finish: str = "error"
    nfe: int = 0
    tpf: float = 0.0
    error: str | None = None
    token_ids: tuple[int, ...] | None = None

    def line(self) -> bytes:
        """Return it as a line of JSON."""
        data: dict[str, Any] = asdict(self)
        if self.token_ids is None:
            del data["token_ids"]
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_answer(line: bytes) -> Answer:
    """Return the answer in a line.

    Raises:
        ValueError, TypeError: there is none.
    """
    data = json.loads(line)
    answer = Answer(**data)
    if type(answer.row) is not int or not line.endswith(b"\n"):
        raise ValueError("no answer")
    return answer
