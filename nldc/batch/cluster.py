"""Rows through Ray Data: one actor a device, each a worker with an engine of its own.

Rows are read on the node that runs the command, which alone must have the file. A call of an actor
answers a few rows and returns them all at once, so that one that is done again, because its actor
died, has nothing to return twice; and whatever Ray repeats or loses, the journal takes a row once,
and asks again for those that it has not seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nldc.batch.answer import Answer, read_answer
from nldc.batch.source import Source, read_lines
from nldc.batch.worker import Plan, Worker
from nldc.runtime.errors import NldcRuntimeError, PromptError

if TYPE_CHECKING:
    from pathlib import Path

FILLS = 4
"""How often the rows of a call fill an engine, so that the end of a call, where it is less and less
full, is a small part; fewer where there would not be calls enough for all actors."""


class Cluster:
    """Connects to the cluster that RAY_ADDRESS names or this machine runs, or starts one here.

    Raises:
        PromptError: Ray is not installed.
        NldcRuntimeError: there is no connection.
    """

    def __init__(self, plan: Plan, actors: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError:
            raise PromptError(
                "--ray needs Ray Data, which is not installed", "pip install 'nldc[ray]'"
            ) from None
        if not ray.is_initialized():
            try:
                ray.init(logging_level=logging.WARNING, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
                raise NldcRuntimeError(
                    f"there is no connection to the Ray cluster: {problem}",
                    "see RAY_ADDRESS and RAY_AUTH_TOKEN_PATH",
                ) from problem
        self._plan = plan
        self._gpus = int(ray.cluster_resources().get("GPU", 0))
        self._actors = actors or self._gpus or sum(node["Alive"] for node in ray.nodes())

    def answers(self, source: Source, rows: Iterator[int]) -> Iterator[Answer]:
        """Yield what comes of rows, in any order, some of them perhaps twice or not at all.

        Raises:
            NldcRuntimeError: an actor could not begin, or the same rows ended too many of them.
        """
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        from nldc.batch.rows_of_ray import rows_as_dataset

        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its notes are not about rows
        places = [(row, source.offsets[row]) for row in rows]
        most = FILLS * (self._plan.max_live or self._plan.max_queue)
        count = max(1, min(most, len(places) // (FILLS * self._actors)))
        read = partial(_read, source.path)
        answered = rows_as_dataset(places, count, read).map_batches(
            Answerer,
            fn_constructor_args=(self._plan,),
            batch_size=count,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=self._actors,
                initial_size=self._actors,
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=1,
            num_gpus=1 if self._gpus else 0,
        )
        try:
            for table in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
                for line in table["answer"]:
                    yield read_answer(line.as_py())
        except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as problem:
            raise _in_words(problem) from problem


class Answerer:
    """What an actor runs: a worker on its device."""

    def __init__(self, plan: Plan) -> None:
        self._worker = Worker(plan)

    def __call__(self, rows: Any) -> Any:
        """Return the lines of the answers of a table of rows, in the order of the rows."""
        import pyarrow as pa

        lines = zip(rows["row"].to_pylist(), rows["line"].to_pylist(), strict=True)
        answers = sorted(self._worker.answers(lines), key=lambda answer: answer.row)
        return pa.table({"answer": pa.array([each.line() for each in answers], pa.binary())})


def _read(path: Path, places: Sequence[tuple[int, int]]) -> Iterable[Any]:
    """Return the table of some rows as a list with that one; runs where the file is."""
    import pyarrow as pa

    rows, lines = zip(*read_lines(path, places), strict=True)
    return [pa.table({"row": pa.array(rows, pa.int64()), "line": pa.array(lines, pa.binary())})]


def _in_words(problem: BaseException) -> NldcRuntimeError:
    """Return what ended a run on a cluster: a mistake of the user's as itself."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, NldcRuntimeError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    lines = str(problem).strip().splitlines()
    return NldcRuntimeError(
        f"the cluster gave up: {lines[-1] if lines else type(problem).__name__}",
        "run it again to go on; Ray's logs say more",
    )
