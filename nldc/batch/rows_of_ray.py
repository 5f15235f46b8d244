"""Rows as a dataset of Ray Data, read a few at a time on the node that runs the command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import Dataset, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata

Places = Sequence[tuple[int, int]]
TYPICAL = 1024
"""Bytes of a row, as Ray is told before any is read."""


class Rows(Datasource):  # type: ignore[misc]  # Ray is not looked into
    """Rows by their places in a file, `count` to a block, as `read` makes tables of them."""

    def __init__(self, places: Places, count: int, read: Callable[[Places], Iterable[Any]]) -> None:
        super().__init__()
        self._places = places
        self._count = count
        self._read = read

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes all rows take."""
        return TYPICAL * len(self._places)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 (blocks are what an actor is given at a time)
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return a task for each block."""
        tasks = []
        for begin in range(0, len(self._places), self._count):
            places = self._places[begin : begin + self._count]
            facts = BlockMetadata(
                num_rows=len(places),
                size_bytes=TYPICAL * len(places),
                exec_stats=None,
                input_files=None,
            )
            read = partial(self._read, places)
            tasks.append(ReadTask(read, facts, per_task_row_limit=per_task_row_limit))
        return tasks


def rows_as_dataset(places: Places, count: int, read: Callable[[Places], Iterable[Any]]) -> Dataset:
    """Return the dataset of rows, `count` to a block; `read` runs on this node."""
    return read_datasource(
        Rows(places, count, read),
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        override_num_blocks=-(-len(places) // count),
    )
