"""Run the default tests on the CPU of a bare machine, without a network.

    python scripts/bare_tests.py --wheels .wheels --out build/bare-tests

Every CUDA device is hidden. Linting and types are left to `make test`. Writes `pytest.log` and
`junit.xml` into the output folder and returns pytest's exit status.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from gpu_report import NEEDED, ROOT, bring, link_folders

# pytest-xdist is found as a plugin by its metadata, which a wheel brings along.
NEEDED |= {"execnet": "execnet", "gguf": "gguf", "tqdm": "tqdm", "xdist": "pytest_xdist"}


def main() -> int:
    """Run the command; pytest's status, 2 if it could not begin, 124 if it ran over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bare-tests")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for all of it")
    parser.add_argument("--processes", default="auto", help="of pytest-xdist")
    given, more = parser.parse_known_args()
    link_folders()
    absent = bring(given.wheels)
    if absent:
        print(f"cannot be imported here: {', '.join(absent)}", file=sys.stderr)
        return 2
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    paths = (str(ROOT), os.environ.get("PYTHONPATH"))
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-n", given.processes, "--dist", "loadfile"]
    command += ["--no-loadscope-reorder"]
    command += [
        "-m",
        "not long and not parity and not gpu and not serve and not browser and not ray",
        "--durations",
        "30",
    ]
    command += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "--junitxml",
        str(out / "junit.xml"),
    ]
    for left_out in ("tests/test_package.py", "tests/serve", "tests/cluster"):
        command += ["--ignore", left_out]
    command += more
    with (out / "pytest.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(timeout=given.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = 124
    print((out / "pytest.log").read_text(errors="replace")[-6000:])
    return code


if __name__ == "__main__":
    sys.exit(main())
