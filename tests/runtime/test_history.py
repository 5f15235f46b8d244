"""The texts on the device: what is looked up in them, and that they are the texts of the host."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import torch

from nldc.runtime.step.history import History

CPU = torch.device("cpu")


def continuation(history: Sequence[int], length: int, ngram: int) -> list[int]:
    """What followed the last tokens the last time they occurred, said one place at a time."""
    for size in range(min(ngram, len(history) - 1), 0, -1):
        tail = list(history[-size:])
        for start in range(len(history) - size - 1, -1, -1):
            if list(history[start : start + size]) == tail:
                after = list(history[start + size : start + size + length])
                return after + [history[-1]] * (length - len(after))
    return [history[-1]] * length


@pytest.mark.parametrize("alphabet", [1, 2, 3, 9])
def test_what_is_looked_up_is_what_followed_the_last_time(alphabet: int) -> None:
    random = Random(alphabet)
    for _ in range(150):
        sizes = [random.choice((1, 2, 3, 5, 20, 60)) for _ in range(random.randint(1, 5))]
        texts = [[random.randrange(alphabet) for _ in range(size)] for size in sizes]
        length, ngram = random.choice((1, 2, 7, 12)), random.choice((1, 2, 3, 5))
        found = History.of(texts, CPU).continued(length, ngram).tolist()
        assert found == [continuation(text, length, ngram) for text in texts]


def test_what_lies_behind_a_text_is_not_looked_at() -> None:
    tokens = torch.tensor([[1, 2, 3, 1, 2, 9, 1, 2], [5, 1, 2, 7, 8, 1, 2, 0]])
    found = History(tokens, torch.tensor([5, 7])).continued(3, 2)
    assert found.tolist() == [[3, 1, 2], [7, 8, 1]]
    assert History(tokens, torch.tensor([5, 7])).at(torch.tensor([[3, 5], [0, 9]])).tolist() == [
        [1, 2],
        [5, 2],
    ]
