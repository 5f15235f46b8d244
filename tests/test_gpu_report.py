"""The GPU report, on the CPU: its phases, what stops one, and what is missing on a machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.report_script import gpu_report

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu_report.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return gpu_report()


def options(module: ModuleType, out: Path) -> object:
    return module.Options("cpu", small=True, out=out, work=out, limit=60.0)


def report_of(module: ModuleType) -> dict[str, object]:
    return {
        "machine": dict.fromkeys(("device", "date", "torch", "cuda", "triton", "python"), "x"),
        "phases": {
            phase.name: {
                "title": phase.title, "outcome": "not run", "seconds": 0, "error": "",
                "records": [],
            }
            for phase in module.PHASES
        },
    }  # fmt: skip


def test_the_smallest_rows_and_times_run_here_and_are_shown(
    module: ModuleType, tmp_path: Path
) -> None:
    chosen = options(module, tmp_path)
    report = report_of(module)
    rows, times = list(module.rows(chosen)), list(module.times(chosen))
    report["phases"]["rows"]["records"] = rows  # type: ignore[index]
    report["phases"]["times"]["records"] = times  # type: ignore[index]
    assert [(one["backend"], one["dtype"], one["differing"]) for one in rows] == [
        ("torch", "float32", 0)
    ] * 2
    assert {one["strategy"]: one["forwards"] for one in times if one["what"] == "step"} == {
        "ar": 1, "linear_ss": 2, "quadratic_ss": 1,
    }  # fmt: skip
    assert [one["rows"] for one in times if one["what"] == "forward"] == [1, 8]
    text = module.markdown(report)
    assert "| 30 | 0 of " in text
    assert "| 8 | 40 | torch | " in text
    assert "| linear_ss block_length=16 | torch | " in text
    rows[0] |= {"differing": 3, "where": ["fewer: rows 0 to 6, 3 differ"]}
    text = module.markdown(report)
    assert "| 30 | 3 of " in text
    assert "- 30, torch float32: fewer: rows 0 to 6, 3 differ" in text
    assert "Rows in any company: 3 differ" in module.verdict(report)


def test_a_phase_that_fails_or_runs_over_is_written_down_with_what_it_had(
    module: ModuleType, tmp_path: Path
) -> None:
    chosen, report = options(module, tmp_path), report_of(module)
    scripts = {
        "rows": "print('no memory'); raise SystemExit(3)",
        "exactness": "import time; time.sleep(600)",
        "tests": "pass",
    }
    running = []
    for phase in module.PHASES[:3]:
        log = (tmp_path / f"{phase.name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-c", scripts[phase.name]], stdout=log, start_new_session=True
        )
        log.close()
        now = time.monotonic()
        limit = 1 if phase.name == "exactness" else 60
        running.append(module.Running(phase, process, now, now + limit))
    record = {
        "strategy": "ar", "backend": "torch", "dtype": "float32", "runs": 2, "differing": 0,
        "where": [],
    }  # fmt: skip
    (tmp_path / "exactness.jsonl").write_text(json.dumps(record) + '\n{"strategy": "li')
    module.wait(running, report, chosen)
    written = json.loads((tmp_path / "report.json").read_text())["phases"]
    assert [written[name]["outcome"] for name in scripts] == [
        "failed (3)", "ran over its limit", "done",
    ]  # fmt: skip
    assert "no memory" in written["rows"]["error"]
    assert written["exactness"]["records"] == [record]
    text = (tmp_path / "report.md").read_text()
    assert "| ar | 0 of 2 |" in text
    assert "no memory" in text
    assert "Rows in any company: failed (3)" in module.verdict(report)


def test_wheels_of_what_is_missing_are_unpacked_and_the_rest_is_named(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "brought_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_along_here.py", "VALUE = 7\n")
    needed = {"brought_along_here": "brought_along", "left_at_home": "left_at_home", "json": "json"}
    monkeypatch.setattr(module, "NEEDED", needed)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    assert module.bring(None) == ["brought_along_here", "left_at_home"]
    assert module.bring(tmp_path) == ["left_at_home"]
    assert importlib.import_module("brought_along_here").VALUE == 7


@pytest.mark.long
def test_the_whole_script_runs_on_the_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--small", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("everything holds\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pytest.log", "report.json", "report.md",
    ]  # fmt: skip
