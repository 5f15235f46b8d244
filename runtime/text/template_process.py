"""Chat templates are programs of strangers: they run in a process of their own, under limits.

Inside one process nothing holds a template: a single operation on a large text or number cannot be
interrupted, and what the compiler folds runs before anything is rendered. So one bare interpreter
is kept that knows jinja2 and nothing else. It may take so much memory and so much time for each
template, and is ended where it takes more.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY = 512 << 20
"""The most memory that the process may take, in bytes of address space."""
START_SECONDS = 60.0
NEEDED = ("jinja2", "markupsafe")


class TemplateProcessError(Exception):
    """A template could not be rendered; the message says why in words that follow `it`."""


class CannotStartError(TemplateProcessError):
    """There is no process to render in."""


class TemplateProcess:
    """Renders templates one at a time; started when first asked, and again after it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to a request of `template_child`.

        Raises:
            TemplateProcessError: it took longer than so many seconds, or the process died.
            CannotStartError: no process can be started here.
        """
        line = json.dumps({**request, "seconds": seconds})
        with self._lock:
            process = self._started()
            try:
                answer = _exchange(process, line, seconds)
            except BaseException:
                self._end()
                raise
            if "failed" in answer:
                self._end()
            return answer

    def close(self) -> None:
        """End the process, if this one has started it."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[str]:
        """Return the running process; one that was started before a fork belongs to the parent."""
        if self._owner != os.getpid():
            self._process = None
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        if not sys.executable:
            raise CannotStartError("python does not know its own program")
        child = Path(__file__).with_name("template_child.py")
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(child)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as problem:
            raise CannotStartError(str(problem)) from problem
        self._process, self._owner = process, os.getpid()
        setup = json.dumps({"path": _places(), "memory": MEMORY})
        try:
            _exchange(process, setup, START_SECONDS)
        except TemplateProcessError as problem:
            self._end()
            raise CannotStartError(f"a python with jinja2 does not start: {problem}") from None
        except BaseException:
            self._end()
            raise
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                assert stream is not None
                stream.close()


def _places() -> list[str]:
    """Return the folders from which the packages that a template needs can be imported."""
    found = [importlib.util.find_spec(name) for name in NEEDED]
    places = [Path(spec.origin).parent.parent for spec in found if spec and spec.origin]
    return list(dict.fromkeys(map(str, places)))


def _exchange(process: subprocess.Popen[str], line: str, seconds: float) -> dict[str, Any]:
    """Send a line and return the answer; the process is killed where that takes longer."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
    finally:
        timer.cancel()
    if answer.endswith("\n"):
        found: dict[str, Any] = json.loads(answer)
        return found
    code = process.wait()
    if late.is_set() or code == -_out_of_time():
        raise TemplateProcessError(f"it takes longer than {seconds:g} s")
    raise TemplateProcessError(f"it ends the process that renders it ({_cause(code)})")


def _out_of_time() -> int:
    import signal

    return int(getattr(signal, "SIGXCPU", 0))


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


PROCESS = TemplateProcess()
"""The one that all tokenizers of this process share."""
atexit.register(PROCESS.close)
