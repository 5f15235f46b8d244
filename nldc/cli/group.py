"""What a command raises becomes a message and an exit code."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from typing import Any

import click

from nldc.cli import INTERRUPTED, is_interrupt
from nldc.cli.options import in_options
from nldc.cli.output import colored, notes_shown, say, say_error, say_painted
from nldc.diagnostics import InternalError, StrategyError
from nldc.render import render_text, summarize
from nldc.runtime.errors import NldcRuntimeError, PromptError, is_out_of_memory

INTERNAL = 70
WHOLE = 10_000
"""Characters of a sentence up to which it is not cut."""
_NO_DISK = re.compile(r"\(?os error (\d+)\)?|\[Errno (\d+)\]")


class Commands(click.Group):
    """Turns what a command raises into a message and an exit code."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence, however narrow the terminal."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(n, c.get_short_help_str(limit=WHOLE)) for n, c in commands if c is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with an exit code where it raises."""
        try:
            with notes_shown():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except StrategyError as error:
            say_painted(render_text(error.diagnostics, color=colored(sys.stderr)))
            say(summarize(error.diagnostics))
            ctx.exit(1)
        except PromptError as error:
            say_error(in_options(error.message), error.hint and in_options(error.hint))
            ctx.exit(1)
        except NldcRuntimeError as error:
            say_error(error.message, error.hint)
            ctx.exit(1)
        except KeyboardInterrupt:
            say("\ninterrupted")
            ctx.exit(INTERRUPTED)
        except InternalError as error:
            say(str(error))
            ctx.exit(INTERNAL)
        except Exception as error:
            if is_interrupt(error):
                say("\ninterrupted")
                ctx.exit(INTERRUPTED)
            known = in_words(error)
            if known is not None:
                say_error(*known)
                ctx.exit(1)
            say(traceback.format_exc())
            say(str(InternalError(f"{type(error).__name__}: {error}")))
            ctx.exit(INTERNAL)


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
