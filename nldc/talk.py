"""A conversation with one decoder: its turns, what of them still fits, and answers as they come.

The engine keeps the pages of the prompts that it has seen, so that a turn computes what was added
to the conversation and no more.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.engine import Engine
    from nldc.runtime.engine.reader import AsRead
    from nldc.runtime.engine.request import Request
    from nldc.runtime.engine.stats import Stats
    from nldc.runtime.text.chat import Chat
    from nldc.runtime.text.thoughts import Said
    from nldc.runtime.vision.picture import Picture

KEEP = "1GiB"
"""The most that pages of earlier prompts may take."""
NAME = "the conversation"
"""What errors call it."""
INTERRUPTED = "[interrupted]"
"""What stands in the conversation behind an answer that was not finished."""


@dataclass(frozen=True)
class Turn:
    """What the user said, and what came of it: the answer, and the thought before it.

    `finish` is what ended the answer, as `Request.finish` has it; `cancelled` if the user did.
    `pictures` went with the message.
    """

    message: str
    answer: str
    thought: str
    finish: str
    stats: Stats
    pictures: tuple[Picture, ...] = ()

    def messages(self) -> list[dict[str, Any]]:
        """Return the turn as a chat template is given it."""
        answer = self.answer
        if self.finish == "cancelled":
            answer = f"{answer} {INTERRUPTED}".lstrip()
        said = {"role": "assistant", "content": answer}
        if self.thought:
            said["reasoning_content"] = self.thought
        return [_asked(self.message, self.pictures), said]


class Talk:
    """A conversation; `generation` are options of `Decoder.request`, `chat` says how it is written.

    `turns` are those that the model is still told of. An answer that is broken off stays in the
    conversation and is marked there; one that fails leaves it as it was.
    """

    def __init__(self, decoder: Decoder, chat: Chat, generation: Mapping[str, Any]) -> None:
        from nldc.runtime.text.thinking_marks import thinking_marks

        self.decoder = decoder
        self.chat = chat
        self.generation = dict(generation)
        self.turns: list[Turn] = []
        self.shown: tuple[Picture, ...] = ()
        self.engine: Engine = decoder.new_engine(max_live=1, keep_prefixes=KEEP)
        self._marks = thinking_marks(
            decoder.config.end_think_token_id,
            decoder.tokenizer,
            self.generation.get("start_think_token_id"),
            self.generation.get("end_think_token_id"),
        )

    def tell(self, system: str | None) -> None:
        """Let the conversation begin with another system message from now on, or with none."""
        self.chat = replace(self.chat, system=system)

    def show(self, path: str) -> None:
        """Let the picture in a file go with the next message.

        Raises:
            PromptError: it cannot be read, or the model reads none.
        """
        from nldc.runtime.vision.picture import Picture

        self.decoder.eye.check()
        self.shown = (*self.shown, Picture.read(path))

    def make_room(self, message: str) -> int:
        """Forget the oldest turns that do not fit beside a message and its answer.

        Returns how many were forgotten: none, where even the message alone does not fit.

        Raises:
            PromptError, TokenizerError: the conversation cannot be written.
        """
        for count in range(len(self.turns) + 1):
            if self._fits(self._messages(message, self.turns[count:])):
                del self.turns[:count]
                return count
        return 0

    def answer(self, message: str) -> Generator[Said, None, None]:
        """Yield the answer to a message as it comes; the last of `turns` is then what it was.

        Raises:
            NldcRuntimeError: the message cannot be answered; the conversation is as before.
        """
        from nldc.runtime.text.thoughts import ThoughtSplit

        prompt = self._prompt(self._messages(message, self.turns))
        request = self.decoder.request(prompt, **self.generation)
        split = ThoughtSplit(self.decoder.tokenizer, *self._marks, request.prompt)
        said: list[Said] = []
        failed = False
        try:
            with closing(self._decoded(request)) as steps:
                for tokens in steps:
                    for each in split.feed(tokens):
                        said.append(each)
                        yield each
            for each in split.flush():
                said.append(each)
                yield each
        except Exception:
            failed = True
            raise
        finally:
            if request.finish is not None and not failed:
                self.turns.append(_turn(message, self.shown, said, request))
                self.shown = ()

    def _decoded(self, request: Request) -> Generator[tuple[int, ...], None, None]:
        """Yield the tokens of each step; whoever stops asking cancels the request."""
        number = self.engine.submit(request)
        try:
            while not request.done:
                for event in self.engine.step():
                    if event.id != number:  # of an answer that was broken off
                        continue
                    if event.error is not None:
                        raise event.error
                    yield event.tokens
        finally:
            self.engine.cancel(number)

    def _messages(self, message: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        before = [each for turn in turns for each in turn.messages()]
        return [*before, _asked(message, self.shown)]

    def _prompt(self, messages: Sequence[Mapping[str, Any]]) -> AsRead:
        return self.decoder.reader.read(messages, self.chat, NAME)

    def _fits(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        reader, tokenizer = self.decoder.reader, self.decoder.tokenizer
        context = self.decoder.config.context
        text, pictures = reader.rendered(messages, NAME, self.chat)
        if tokenizer.exceeds(text, context):
            return False
        room = context - int(self.generation["max_new_tokens"])
        return reader.length(tokenizer.encode_chat(text), pictures) <= room


def _asked(message: str, pictures: tuple[Picture, ...]) -> dict[str, Any]:
    """Return the user's message, its pictures before its text."""
    if not pictures:
        return {"role": "user", "content": message}
    from nldc.runtime.vision.picture import PicturePrompt

    return PicturePrompt((*pictures, message)).message()


def _turn(
    message: str, pictures: tuple[Picture, ...], said: Sequence[Said], request: Request
) -> Turn:
    thought = "".join(each.text for each in said if each.is_thought)
    answer = "".join(each.text for each in said if not each.is_thought)
    # an interrupt in the midst of a step may end a request with an error
    return Turn(
        message=message,
        answer=answer.lstrip() if thought else answer,
        thought=thought.strip(),
        finish="cancelled" if request.finish == "error" else str(request.finish),
        stats=request.stats(),
        pictures=pictures,
    )
