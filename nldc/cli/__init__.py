"""The `nldc` command: arguments in, a call of the library, text and an exit code out.

Exit codes: 0 fine, 1 a mistake of the user's or a difference found, 2 a wrong command line,
70 a bug of ours, 130 interrupted. Results go to standard output, everything else to standard error.

Nothing is imported before `main` runs, so that an interrupt while the command starts ends it as
one at any other time does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nldc.cli.commands import cli

__all__ = ["cli", "main"]

INTERRUPTED = 130


def __getattr__(name: str) -> Any:
    if name == "cli":
        from nldc.cli.commands import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line; the entry point of the `nldc` script."""
    if sys.stderr is None:  # closed: what would be said is lost, and the exit code tells
        import os

        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stderr.write("error: standard output is closed\n")
        sys.exit(1)
    try:
        from nldc.cli.commands import run

        run()
    except OSError as error:  # before or after a command: standard output took no help, say
        from contextlib import suppress

        with suppress(OSError):
            sys.stderr.write(f"error: {(error.strerror or str(error)).lower()}\n")
            sys.stderr.flush()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(INTERRUPTED)
    except ImportError as error:
        if not is_interrupt(error):
            raise
        sys.stderr.write("\ninterrupted\n")
        sys.exit(INTERRUPTED)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library in the middle of an import may wrap it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
