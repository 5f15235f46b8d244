"""Write the page of every error code: `python -m nldc.errors docs/errors`."""

from __future__ import annotations

import sys
from pathlib import Path

from nldc.errors import pages


def main(folder: str) -> None:
    """Write all pages into a folder and remove those of codes that are gone."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for old in out.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/errors")
