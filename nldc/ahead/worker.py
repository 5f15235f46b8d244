"""Run as a process: compile what no other one has begun to, as a request says.

A compiler that fails takes this process along and no other; a line in a file tells what failed.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path


def work(request: Path) -> None:
    """Compile kernels one after another, and leave of each what it takes and its files.

    The request has the `artifact`, the `coverage` without kernels, the `targets`, and `out`, the
    folder for what is compiled: a folder for each target and kernel.
    """
    from nldc import api
    from nldc.runtime.ahead import needed
    from nldc.runtime.errors import BackendError
    from nldc.runtime.kernels.ahead import compiled_of, kernel_target, target_of
    from nldc.runtime.kernels.coverage import DTYPES, Coverage, Kernel
    from nldc.runtime.kernels.occupancy import occupancy

    data = json.loads(request.read_bytes())
    decoder = api.load(data["artifact"])
    coverage = Coverage.read(json.dumps(data["coverage"]).encode())
    sizes = coverage.geometry.sizes(DTYPES[coverage.dtype])
    for name in data["targets"]:
        target = target_of(name)
        kernels = needed(coverage, decoder, sizes, target)
        with suppress(FileExistsError), (Path(data["out"]) / f"{TOTAL}{name}").open("x") as counted:
            counted.write(str(len(kernels)))
        for digest, kernel in kernels.items():
            folder = Path(data["out"]) / f"{name.replace(':', '-')}-{digest}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another process has it
            (folder / BEGUN).write_text(kernel.name, encoding="utf-8")
            try:
                found = compiled_of(kernel, target)
            except BackendError as problem:
                _leave(folder / FAILED, json.dumps([problem.message, problem.hint]).encode())
                return
            report = found.report
            share = occupancy(
                kernel_target(target).arch, report.threads, report.registers, report.shared
            )
            takes = Kernel(kernel.name, report.registers, report.stack, report.shared, share)
            for file, content in found.files.items():
                (folder / file).write_bytes(content)
            (folder / BEGUN).unlink()
            _leave(folder / TAKES, json.dumps(asdict(takes)).encode())


TOTAL = "total "
"""What files begin with that say how many kernels a target has, for who waits."""
BEGUN, TAKES, FAILED = "begun", "takes", "failed"
"""Files in a kernel's folder: its name while it is compiled; what it takes, or why it failed."""


def _leave(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
