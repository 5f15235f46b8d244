"""`nldc chat`: a conversation in a terminal, or a turn a line from a pipe.

Ctrl-C ends the answer and not the program, Ctrl-D ends the program.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import offer_artifacts
from nldc.cli.decoding import stats_data, stats_lines
from nldc.cli.machine import as_json_lines, write_line
from nldc.cli.options import (
    chat_of,
    generation_of,
    in_options,
    loading,
    loading_of,
    number_of,
    sampling,
    strategy,
    templating,
)
from nldc.cli.output import (
    colored,
    hide_notes,
    is_terminal,
    say,
    say_error,
    say_note,
    write,
    write_dimmed,
)
from nldc.diagnostics import counted, nearest
from nldc.runtime.errors import NldcRuntimeError, PromptError

if TYPE_CHECKING:
    from nldc.talk import Talk

PROMPT = "> "
LONGEST_ANSWER = 512
"""Tokens of an answer unless --max-new-tokens says otherwise."""
DEMO = "the demo model goes on with source code and answers nothing: --model DIR for another"
_TURN = ("message", "thought", "answer", "finish")
"""What a line of JSON has of a turn, beside its cost."""
THOUGHT, ANSWER = "thinking:", "answer:"
"""What stands before thoughts and answers where nothing is dimmed."""


@click.command(context_settings={"default_map": {"max_new_tokens": LONGEST_ANSWER}})
@click.argument("artifact", shell_complete=offer_artifacts)
@loading
@templating
@sampling
@strategy
@click.option("--quiet", is_flag=True, help="Leave out notes.")
@as_json_lines
def chat(
    artifact: str,
    model: str | None,
    quiet: bool,
    strategy: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Talk with a model by a compiled ARTIFACT; /help lists what can be asked for.

    Ctrl-C ends an answer, Ctrl-D the conversation. Where standard input is no terminal, each line
    of it is a turn, and the first mistake ends the command. With --json each turn is a line of
    JSON, and what else is told goes to standard error.
    """
    if quiet:
        hide_notes()
    given = chat_of(options, True, "")
    generation = generation_of(options)
    loading = loading_of(options)
    from nldc.runtime.text.chat import Chat
    from nldc.talk import Talk
    from nldc.verify import load_decoder, named_strategy

    decoder = load_decoder(artifact, model, **loading)
    if model is None:
        say_note(DEMO)
    generation |= named_strategy(decoder, strategy)
    written = Chat(
        given["system"], given["tools"], given["template_variables"], given["chat_template"]
    )
    _Terminal(Talk(decoder, written, generation), as_json).run()


class _Terminal:
    """Reads turns and commands, and shows what comes of them."""

    def __init__(self, talk: Talk, as_json: bool = False) -> None:
        self.talk = talk
        self.as_json = as_json
        self.interactive = is_terminal(sys.stdin)
        self.dims = self.interactive and colored(sys.stdout)
        self.over = False

    def run(self) -> None:
        """Go on until the user leaves, or the input ends."""
        if self.interactive:
            with suppress(ImportError):  # there is none on Windows; with it, lines can be edited
                import readline  # noqa: F401
            say(_wrapped(f"{self.talk.decoder.STRATEGY}: /help for help, Ctrl-D to leave"))
        while not self.over:
            try:
                line = self._read()
                if line is None:
                    return
                self._do(line)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._put("")
            except NldcRuntimeError as error:
                if not self.interactive:
                    raise
                words = in_options if isinstance(error, PromptError) else str
                say_error(words(error.message), error.hint and words(error.hint))

    def _read(self) -> str | None:
        """Return the next line without its end, None where there is no more."""
        if self.interactive and is_terminal(sys.stdout) and not self.as_json:
            try:
                return input(PROMPT)
            except EOFError:
                write("")
                return None
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise PromptError("standard input is not UTF-8 text", "write it as UTF-8") from None
        return line.rstrip("\r\n") if line else None

    def _do(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/") or line.startswith("//"):
            self._answer(line[1:] if line.startswith("/") else line)
            return
        name, _, rest = line.partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            meant = nearest(name, _COMMANDS)
            hint = f"did you mean {meant}?" if meant else "/help lists the commands."
            slash = "A message that begins with a slash is written with two."
            raise PromptError(f"there is no command {name}", f"{hint} {slash}")
        command[2](self, rest.strip())

    # What is said

    def _answer(self, message: str) -> None:
        forgotten = self.talk.make_room(message)
        if forgotten:
            turns = "the oldest turn" if forgotten == 1 else f"the {forgotten} oldest turns"
            say_note(f"{turns} no longer fit the model's context, and it is told no more of them")
        try:
            self._show(message)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self._put(" [interrupted]")
            return
        if self.talk.turns[-1].finish == "length":
            say_note(
                f"the answer was cut after {counted(self.talk.turns[-1].stats.tokens, 'token')}: "
                "--max-new-tokens allows more"
            )

    def _show(self, message: str) -> None:
        """Write the answer as it comes, and before it the thought, if there is one."""
        if self.as_json:
            for _ in self.talk.answer(message):
                pass
            turn = self.talk.turns[-1]
            words = {name: getattr(turn, name) for name in _TURN}
            write_line({**words, "stats": stats_data(turn.stats)})
            return
        column, kind = 0, None
        with closing(self.talk.answer(message)) as pieces:
            for piece in pieces:
                text = piece.text
                if piece.is_thought is not kind:
                    if piece.is_thought or kind is not None:
                        text = text.lstrip()  # line breaks around thoughts
                    if not text:
                        continue
                    if kind is not None and column:
                        write("")
                    if not self.dims and (piece.is_thought or kind is not None):
                        write(THOUGHT if piece.is_thought else ANSWER, end=" ")
                    kind = piece.is_thought
                if piece.is_thought and self.dims:
                    write_dimmed(text)
                else:
                    write(text, end="")
                column = len(text) - text.rfind("\n") - 1 if "\n" in text else column + len(text)
        write("")

    # What can be asked for

    def strategy(self, text: str) -> None:
        """Let another strategy answer from now on; without a name, tell which there are."""
        from nldc.verify import named_strategy

        if not text:
            chosen = self.talk.generation.get("strategy")
            names = list(self.talk.decoder.strategies())
            first = "" if chosen is not None else f"; {names[0]} answers unless another is chosen"
            self._tell(", ".join(names) + first)
            return
        self.talk.generation |= named_strategy(self.talk.decoder, text)

    def param(self, text: str) -> None:
        """Give a param another value from now on; without one, tell which there are."""
        declared = self.talk.decoder.runtime_params()
        given = self.talk.generation.get("params") or {}
        if not text:
            for each in declared:
                value, range_ = given.get(each.name, each.default), f"{each.low} to {each.high}"
                self._tell(f"{each.name} = {value} ({range_}) {each.help}".rstrip(), indent=2)
            if not declared:
                self._tell("the strategy leaves no param to requests")
            return
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            number = number_of(value)
        except ValueError:
            raise PromptError(f"{text!r} gives no param a number", "/param NAME=VALUE") from None
        from nldc.runtime.engine.params import params_of

        self.talk.generation["params"] = {**given, **params_of({name: number}, declared)}

    def system(self, text: str) -> None:
        """Change what the model is told first; without a text, that is nothing."""
        self.talk.tell(text or None)

    def image(self, text: str) -> None:
        """Let a picture go with the next message."""
        self.talk.show(text)
        count = counted(len(self.talk.shown), "picture")
        self._tell(f"{count} will go with the next message")

    def stats(self, _text: str) -> None:
        """Tell what the last answer cost."""
        if not self.talk.turns:
            self._tell("there is no answer yet")
            return
        for line in stats_lines(self.talk.turns[-1].stats):
            self._put(line)
        self._tell(f"the model knows {counted(len(self.talk.turns), 'turn')}")

    def reset(self, _text: str) -> None:
        """Forget the conversation; the system message stays."""
        self.talk.turns.clear()
        self.talk.shown = ()

    def help(self, _text: str) -> None:
        """List the commands."""
        for usage, does, _ in _COMMANDS.values():
            self._tell(f"{usage:{_WIDEST}}  {does}", indent=_WIDEST + 2)
        self._tell("Ctrl-C ends an answer, which stays in the conversation and is marked there.")

    def quit(self, _text: str) -> None:
        """Leave."""
        self.over = True

    def _tell(self, text: str, indent: int = 0) -> None:
        self._put(_wrapped(text, indent) if is_terminal(sys.stdout) else text)

    def _put(self, text: str) -> None:
        (say if self.as_json else write)(text)


def _wrapped(text: str, indent: int = 0) -> str:
    """Return a paragraph, no line of it wider than the terminal if its words are not."""
    width = max(20, shutil.get_terminal_size().columns - 1)
    indent = indent if indent < width // 2 else 4
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_long_words=False)


_COMMANDS: Mapping[str, tuple[str, str, Callable[[_Terminal, str], None]]] = {
    "/strategy": (
        "/strategy [NAME]",
        "answer by another strategy of the artifact; list them",
        _Terminal.strategy,
    ),
    "/param": (
        "/param [NAME=VALUE]",
        "give a param another value; list those that take one",
        _Terminal.param,
    ),
    "/system": ("/system [TEXT]", "what the model is told first; nothing", _Terminal.system),
    "/image": ("/image FILE", "a picture for the next message", _Terminal.image),
    "/stats": ("/stats", "what the last answer cost", _Terminal.stats),
    "/reset": ("/reset", "forget the conversation", _Terminal.reset),
    "/help": ("/help", "this list", _Terminal.help),
    "/quit": ("/quit", "leave, as Ctrl-D does", _Terminal.quit),
}
_WIDEST = max(len(usage) for usage, _, _ in _COMMANDS.values())
