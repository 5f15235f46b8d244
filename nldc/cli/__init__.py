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

_INTERRUPTED = 130


def __getattr__(name: str) -> Any:
    if name == "cli":
        from nldc.cli.commands import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line; the entry point of the `nldc` script."""
    try:
        from nldc.cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(_INTERRUPTED)
    except ImportError as error:
        # a library in the middle of an import may wrap the interrupt
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        sys.stderr.write("\ninterrupted\n")
        sys.exit(_INTERRUPTED)
