"""Write what is made of docs/: the gallery, the reference, the pictures of the certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scripts.site import add_op, certificate, gallery, reference

DOCS = Path(__file__).parents[2] / "docs"


def made() -> Iterator[tuple[str, str]]:
    """Yield the path below docs/ and the text of every file that is made."""
    yield from gallery.pages()
    yield from reference.pages()
    yield from certificate.pictures()
    yield from add_op.pages()


def main() -> None:
    """Write what differs from what is there."""
    for path, text in made():
        file = DOCS / path
        if not file.exists() or file.read_text("utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
            print(f"wrote docs/{path}")


if __name__ == "__main__":
    main()
