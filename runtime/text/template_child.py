"""The other end of `template_process`: renders one template a line, under limits.

Runs as a script of its own, in a bare interpreter that imports nothing of ours. A line of standard
input is a request in JSON, a line of standard output its answer. The world that a template finds is
that of transformers: its filters, functions, tags and settings.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from datetime import datetime
from typing import Any

LONGEST = 16 << 20
"""The longest text that a template may write, in characters."""
POWER_BITS = 4096
"""The longest number that a power may give."""
KEPT = 8
"""How many compiled templates are kept."""


def main() -> None:
    """Answer requests until standard input ends."""
    setup = json.loads(sys.stdin.readline())
    sys.path[:0] = setup["path"]
    memory = setup["memory"]
    _limit_memory(memory)
    renderer = _renderer()
    answer = sys.stdout
    sys.stdout = sys.stderr
    _say(answer, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["seconds"])
        try:
            found = renderer(request)
        except MemoryError:
            found = {"failed": f"it takes more than {memory >> 20} MiB", "line": None}
        except RecursionError:
            found = {"failed": "it is nested too deeply", "line": None}
        _say(answer, found)


def _say(stream: Any, data: dict[str, Any]) -> None:
    stream.write(json.dumps(data) + "\n")
    stream.flush()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # there is no such module on Windows; the time limit holds there, too
        return
    for kind, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (allowed, hard))
        except (ValueError, OSError):
            continue


def _limit_time(seconds: float) -> None:
    """Let the system end this process should the one that asks not do it."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = math.ceil(time.process_time() + seconds) + 1
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


def _renderer() -> Any:
    """Return the function that answers a request; jinja2 is imported under the limits."""
    from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class RefusedError(TemplateError):
        """What a template raises about the conversation that it is given."""

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote, for training; here it is text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

        def _text(self, caller: Any) -> str:
            return str(caller())

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, in which powers stay small."""

        intercepted_binops = frozenset(("**",))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            whole = isinstance(left, int) and isinstance(right, int)
            if whole and abs(left).bit_length() * abs(right) > POWER_BITS:
                raise SecurityError(f"`{operator}` gives too large a number")
            return super().call_binop(context, operator, left, right)

    def refuse(message: Any) -> None:
        raise RefusedError(str(message))

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def make() -> Any:
        made = Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, "jinja2.ext.loopcontrols"],
        )
        made.filters["tojson"] = to_json
        made.globals["raise_exception"] = refuse
        made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return made

    known: dict[str, tuple[Any, frozenset[str]]] = {}

    def compiled(source: str) -> tuple[Any, frozenset[str]]:
        if source not in known:
            environment = make()
            names = meta.find_undeclared_variables(environment.parse(source))
            template = environment.from_string(source)
            while len(known) >= KEPT:
                del known[next(iter(known))]
            known[source] = template, frozenset(names)
        return known[source]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            template, names = compiled(request["template"])
            unused = [name for name in request["asked"] if name not in names]
            if unused:
                return {"unused": unused, "known": sorted(names - set(make().globals))}
            text = template.render(**request["variables"])
        except RefusedError as problem:
            return {"refused": str(problem)}
        except TemplateSyntaxError as problem:
            return {"failed": str(problem.message), "line": problem.lineno}
        except (MemoryError, RecursionError):
            raise
        except Exception as problem:  # a template can make Python raise anything
            return {"failed": str(problem) or type(problem).__name__, "line": _line(problem)}
        if len(text) > LONGEST:
            return {"failed": f"it writes more than {LONGEST} characters", "line": None}
        return {"text": text}

    return answer


def _line(problem: BaseException) -> int | None:
    """Return the line of the template in which something was raised."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines else None


if __name__ == "__main__":
    main()
