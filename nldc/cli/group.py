"""What a command raises becomes a message and an exit code."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Never

import click

from nldc.cli import INTERRUPTED, is_interrupt
from nldc.cli.machine import code_of, is_asked, mistake_data, note_line, write_document
from nldc.cli.options import in_options
from nldc.cli.output import notes_shown, say, say_error, say_mistakes
from nldc.diagnostics import InternalError, StrategyError
from nldc.render import diagnostic_data
from nldc.runtime.errors import NldcRuntimeError, PromptError, is_out_of_memory

INTERNAL = 70
WHOLE = 10_000
"""Characters of a sentence up to which it is not cut."""
_NO_DISK = re.compile(r"\(?os error (\d+)\)?|\[Errno (\d+)\]")


class Commands(click.Group):
    """Turns what a command raises into a message and an exit code."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sections: Mapping[str, Sequence[str]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, each with its whole first sentence, whatever the width."""
        named = {name for names in self.sections.values() for name in names}
        others = [name for name in self.commands if name not in named]
        for title, names in {**self.sections, "More": others}.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(n, c.get_short_help_str(limit=WHOLE)) for n, c in commands if c is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the line, and keep its words for what is said of it."""
        note_line(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with an exit code where it raises."""
        try:
            with notes_shown():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except click.ClickException as error:
            _tell(ctx, "usage", error.format_message(), None)
            raise
        except StrategyError as error:
            say_mistakes(error.diagnostics)
            _document(ctx, [diagnostic_data(each) for each in error.diagnostics])
            ctx.exit(1)
        except PromptError as error:
            message, hint = in_options(error.message), error.hint and in_options(error.hint)
            say_error(message, hint)
            _tell(ctx, code_of(error), message, hint)
            ctx.exit(1)
        except NldcRuntimeError as error:
            say_error(error.message, error.hint)
            _tell(ctx, code_of(error), error.message, error.hint)
            ctx.exit(1)
        except KeyboardInterrupt:
            _interrupted(ctx)
        except InternalError as error:
            say(str(error))
            _tell(ctx, "internal", str(error), None)
            ctx.exit(INTERNAL)
        except Exception as error:
            if is_interrupt(error):
                _interrupted(ctx)
            known = in_words(error)
            if known is not None:
                say_error(*known)
                _tell(ctx, "machine", *known)
                ctx.exit(1)
            bug = str(InternalError(f"{type(error).__name__}: {error}"))
            say(traceback.format_exc())
            say(bug)
            _tell(ctx, "internal", bug, None)
            ctx.exit(INTERNAL)


def _tell(ctx: click.Context, code: str, message: str, hint: str | None) -> None:
    """Write the document of a command that a mistake ended, if it was asked for one."""
    _document(ctx, [mistake_data(code, message, hint)])


def _document(ctx: click.Context, diagnostics: Sequence[Any]) -> None:
    """Write the document of a mistake, if asked for; it is said where standard output is full."""
    if is_asked(ctx):
        try:
            write_document(ok=False, diagnostics=diagnostics)
        except BrokenPipeError:
            raise
        except OSError:
            pass


def _interrupted(ctx: click.Context) -> Never:
    say("\ninterrupted")
    _tell(ctx, "interrupted", "interrupted", None)
    ctx.exit(INTERRUPTED)


def in_words(error: Exception) -> tuple[str, str | None] | None:
    """Return what to say, and a hint, of an error that is the machine's; None: it is a bug.

    Libraries have errors of their own for a full disk and for memory that ran out.
    """
    if is_out_of_memory(error):
        return "there is not enough memory", "use dtype bfloat16, fewer prompts or a smaller model"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{(error.strerror or str(error)).lower()}", None
    number = _NO_DISK.search(str(error))
    if number is not None:
        code = int(number[1] or number[2])
        if code in errno.errorcode:
            return str(error).lower(), None
    return None
