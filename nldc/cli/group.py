"""What a command raises becomes a message and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from nldc.cli.output import colored, notes_shown, say, say_error
from nldc.diagnostics import InternalError, StrategyError
from nldc.render import render_text, summarize
from nldc.runtime.errors import NldcRuntimeError

INTERNAL = 70
INTERRUPTED = 130


class Commands(click.Group):
    """Turns what a command raises into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with an exit code where it raises."""
        try:
            with notes_shown():
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except StrategyError as error:
            say(render_text(error.diagnostics, color=colored(sys.stderr)))
            say(summarize(error.diagnostics))
            ctx.exit(1)
        except NldcRuntimeError as error:
            say_error(error.message, error.hint)
            ctx.exit(1)
        except KeyboardInterrupt:
            say("\ninterrupted")
            ctx.exit(INTERRUPTED)
        except MemoryError:
            say_error("there is not enough memory", "use a smaller model or dtype bfloat16")
            ctx.exit(1)
        except InternalError as error:
            say(str(error))
            ctx.exit(INTERNAL)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            say_error(f"{place}{(error.strerror or str(error)).lower()}", None)
            ctx.exit(1)
        except Exception as error:
            if _is_interrupt(error):
                say("\ninterrupted")
                ctx.exit(INTERRUPTED)
            if type(error).__name__ == "OutOfMemoryError":
                say_error(
                    "the device has not enough memory", "use dtype bfloat16, or fewer prompts"
                )
                ctx.exit(1)
            say(traceback.format_exc())
            say(str(InternalError(f"{type(error).__name__}: {error}")))
            ctx.exit(INTERNAL)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library in the middle of an import may wrap it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
