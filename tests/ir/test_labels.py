"""A kind of rows is a label: it is compared with labels, and is no number."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError

PATTERN = (
    '"k.prefix or (k.kind == draft and k.group <= q.group)'
    ' or (q.kind == mask and k.group == q.group)"'
)


def with_pattern(folder: Path, pattern: str) -> Path:
    """Write the quadratic strategy, promising nothing, with another attention predicate."""
    text = api.library()["quadratic_ss"].read_text(encoding="utf-8")
    assert PATTERN in text
    text = text.replace(PATTERN, f'"{pattern}"').replace("guarantee: exact", "guarantee: none")
    file = folder / "labels.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("pattern", "where"),
    [
        ("k.prefix or k.kind == 6", "6"),
        ("k.prefix or 6 != k.kind", "6"),
        ("k.prefix or k.kind == block_length", "block_length"),
        ("k.prefix or k.kind == k.row", "k.row"),
        ("k.prefix or k.kind == k.prefix", "k.prefix"),
        ("k.prefix or k.kind < mask", "k.kind"),
        ("k.prefix or k.kind >= 0", "k.kind"),
        ("k.prefix or k.kind + 1 == mask", "k.kind"),
        ("k.prefix or -k.kind == mask", "k.kind"),
        ("k.prefix or k.row == draft", "k.row"),
        ("k.prefix or k.row < draft", "draft"),
        ("k.prefix or k.row % mask == 0", "mask"),
        ("k.prefix or k.kind", "k.kind"),
    ],
)
def test_a_kind_that_is_used_as_a_number_is_refused(
    tmp_path: Path, pattern: str, where: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        api.check(with_pattern(tmp_path, pattern))
    found = caught.value.diagnostics[0]
    assert found.code == "NLD030"
    assert f"`{where}` is " in found.message
    assert "kind of rows" in " ".join((found.message, *found.help))


@pytest.mark.parametrize(
    "pattern",
    ["k.prefix or q.kind == k.kind", "k.prefix or mask != k.kind", "k.prefix or k.kind == draft"],
)
def test_a_kind_may_be_compared_with_labels(tmp_path: Path, pattern: str) -> None:
    assert api.check(with_pattern(tmp_path, pattern)).guarantee == "none"
