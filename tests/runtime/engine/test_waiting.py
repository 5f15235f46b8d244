"""Who begins next, without an engine."""

from __future__ import annotations

from nldc.runtime.engine.request import Request
from nldc.runtime.engine.waiting import Waiting


def request_of(number: int, priority: int = 0) -> Request:
    request = Request(number, (1,), number, 1, (), lambda _: "ar", priority=priority)
    request.id = number
    return request


def test_those_of_higher_priority_come_first_and_then_in_their_order() -> None:
    begun: set[int] = set()
    waiting = Waiting(lambda request: request.id not in begun)
    for number, priority in enumerate((0, 2, 0, 2, 1)):
        waiting.add(request_of(number, priority))
    assert waiting.arrived
    assert not waiting
    waiting.admit(5)
    assert not waiting.arrived
    order = []
    while (first := waiting.first()) is not None:
        assert waiting.first() is first, "who is interrupted before it begins is the first still"
        order.append(first.id)
        begun.add(first.id)
    assert order == [1, 3, 4, 0, 2]
    assert not waiting


def test_an_entry_that_no_longer_waits_is_passed_over_and_in_time_forgotten() -> None:
    gone: set[int] = set()
    waiting = Waiting(lambda request: request.id not in gone)
    for number in range(50):
        waiting.add(request_of(number))
    gone.update(range(40))
    waiting.admit(10)
    assert len(waiting._queue) == 10
    first = waiting.first()
    assert first is not None
    assert first.id == 40
