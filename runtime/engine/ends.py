"""How requests leave an engine: with their last news, and their places given back."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nldc.runtime.engine.failures import in_words
from nldc.runtime.engine.news import News
from nldc.runtime.engine.request import Finish, Request
from nldc.runtime.engine.seats import Seats


class Ends:
    """`known` are the requests that have not ended, by their ids.

    One is known until its last news is on its way, so that what is interrupted is done again.
    `any_new` says that some have ended and may stand in their groups still.
    """

    def __init__(self, seats: Seats, news: News) -> None:
        self.known: dict[int, Request] = {}
        self.any_new = False
        self._seats = seats
        self._news = news

    def end(
        self, request: Request, finish: Finish, tokens: Sequence[int] = (), text: str = ""
    ) -> None:
        """Let a request leave, if it has not left, with its last tokens and text."""
        if request.id not in self.known:
            return
        self.any_new = True
        request.finish = finish
        request.finished = time.perf_counter()
        self._seats.give_back(request)
        self._news.add(request.news(tokens, text, finish))
        self.known.pop(request.id, None)
        self.tell()

    def fail(
        self,
        request: Request,
        problem: BaseException,
        tokens: Sequence[int] = (),
        text: str = "",
    ) -> None:
        """Let a request end with an error, if it has not left."""
        if request.id in self.known:
            request.error = in_words(problem)
            self.end(request, "error", tokens, text)

    def put_back(self, request: Request) -> None:
        """Let a request wait again, as if it had not begun: it stands in the queue still."""
        self._seats.give_back(request)
        request.strategy, request.asked = "", -1

    def finish_all(self) -> None:
        """Let those leave that an interrupt kept from leaving."""
        for request in [each for each in self.known.values() if each.finish]:
            self.end(request, request.finish or "error")

    def tell(self) -> None:
        """Tell all news; a request whose listener fails ends with that."""
        while (failed := self._news.deliver()) is not None:
            request = self.known.get(failed[0])
            if request is not None:
                self.fail(request, failed[1])
