"""Events and who hears of them, without an engine."""

from __future__ import annotations

from nldc.runtime.engine.news import News
from nldc.runtime.engine.request import Event


def test_news_goes_to_listeners_and_the_rest_to_whoever_asks_once() -> None:
    news, heard = News(), []
    news.listen(1, heard.append)
    events = [Event(1, (5,)), Event(2, (6,)), Event(1, (7,), finish="eos"), Event(1, (8,))]
    for event in events:
        news.add(event)
    assert news.deliver() is None
    assert heard == [events[0], events[2]]
    assert news.take() == [events[1], events[3]], "nobody listens to a request that has ended"
    assert news.take() == []


def test_nothing_is_told_while_news_is_held() -> None:
    news = News()
    news.held = True
    news.add(Event(1))
    assert news.deliver() is None
    assert news.take() == []
    news.held = False
    assert news.deliver() is None
    assert news.take() == [Event(1)]


def test_a_listener_that_fails_hears_no_more_and_the_others_go_on() -> None:
    def fails(event: Event) -> None:
        raise OSError(event.id)

    news, heard = News(), []
    news.listen(1, fails)
    news.listen(2, heard.append)
    for event in (Event(1, (5,)), Event(2, (6,)), Event(1, (7,))):
        news.add(event)
    failed = news.deliver()
    assert failed is not None
    assert failed[0] == 1
    assert isinstance(failed[1], OSError)
    assert news.deliver() is None
    assert heard == [Event(2, (6,))]
    assert news.take() == [Event(1, (7,))]
