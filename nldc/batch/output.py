"""The file that a batch leaves: JSON lines, or parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from nldc.batch.answer import Answer
from nldc.runtime.errors import PromptError

GROUP = 4096
"""Rows of a parquet row group, the most that are held in memory."""


def check_output(out: Path) -> None:
    """See that an output can be written in the format that its name asks for.

    Raises:
        PromptError: the name asks for no known format, its library is missing, or there is no
            folder for it.
    """
    if out.suffix not in (".jsonl", ".parquet"):
        raise PromptError(f"{out} is no name for an output", "end it in .jsonl or .parquet")
    if not out.absolute().parent.is_dir():
        raise PromptError(f"there is no folder for {out}", "make it first")
    if out.is_dir():
        raise PromptError(f"{out} is a folder", "give the name of a file")
    if out.suffix == ".parquet":
        _pyarrow()


def write_output(path: Path, answers: Iterator[Answer], *, token_ids: bool) -> None:
    """Write answers to a file, in the format of its name; with a column of `token_ids` or not."""
    if path.suffix == ".parquet":
        _write_parquet(path, answers, token_ids=token_ids)
        return
    with open(path, "wb") as file:
        file.writelines(answer.line() for answer in answers)


def _write_parquet(path: Path, answers: Iterator[Answer], *, token_ids: bool) -> None:
    pa, parquet = _pyarrow()
    kinds = {
        "row": pa.int64(),
        "id": pa.string(),
        "text": pa.string(),
        "tokens": pa.int64(),
        "finish": pa.string(),
        "nfe": pa.int64(),
        "tpf": pa.float64(),
        "error": pa.string(),
        **({"token_ids": pa.list_(pa.int32())} if token_ids else {}),
    }
    schema = pa.schema(list(kinds.items()))
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(answers):
            rows = [{name: row[name] for name in kinds} for row in map(asdict, group)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _groups(answers: Iterable[Answer]) -> Iterator[list[Answer]]:
    left = iter(answers)
    while group := list(islice(left, GROUP)):
        yield group


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise PromptError(
            "parquet needs pyarrow, which is not installed", "pip install 'nldc[batch]'"
        ) from None
    return pyarrow, pyarrow.parquet
