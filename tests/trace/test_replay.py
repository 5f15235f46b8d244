"""A trace runs again, step by step the same; and what is another run is told where it begins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.trace.chrome import chrome_of
from nldc.trace.document import Part, Trace
from nldc.trace.file import write_trace
from nldc.trace.replay import compared, replay
from nldc.trace.running import watch
from tests.trace.conftest import CHECKPOINT, LOADING, Compiled, Watch

PROMPTS = [[1, 38, 26], [5], [7] * 9]
SAMPLED = {"max_new_tokens": 10, "temperature": 1.0, "top_p": 0.9, "seed": 5, "batch_size": 2}


@pytest.mark.parametrize(
    "name", ["linear_ss", *(pytest.param(name, marks=pytest.mark.long) for name in (
        "quadratic_ss", "block_diffusion", "concurrency_router", "lookahead", "linear_ss_tree"
    ))],
)  # fmt: skip
def test_a_trace_replays_exactly(compiled: Compiled, watched: Watch, name: str) -> None:
    trace, _ = watched(name).run(PROMPTS, SAMPLED)
    again = replay(trace, compiled(name), CHECKPOINT, LOADING)
    assert again.apart is None
    assert again.numbers == 0
    assert again.notes == ()
    assert again.steps == sum(len(step.parts) for step in trace.steps)


def test_another_artifact_or_model_is_noted(compiled: Compiled, watched: Watch) -> None:
    trace, _ = watched("linear_ss").run(PROMPTS, SAMPLED)
    other = CHECKPOINT.parent / "random-2"
    again = replay(trace, compiled("linear_ss"), other, LOADING)
    assert again.notes == ("the model is not the one that was traced",)
    assert again.apart is not None
    strange = replay(trace, compiled("ar"), CHECKPOINT, LOADING)
    assert strange.notes == ("the artifact is not the one that was traced",)
    assert strange.apart is not None
    assert strange.apart.what == "strategy"


def changed(trace: Trace, step: int, **values: Any) -> Trace:
    """A trace with another value in the first part of a step."""
    steps = list(trace.steps)
    part: Part = replace(steps[step].parts[0], **values)
    steps[step] = replace(steps[step], parts=(part, *steps[step].parts[1:]))
    return replace(trace, steps=tuple(steps))


def test_the_first_step_that_differs_is_named(watched: Watch) -> None:
    trace, _ = watched("linear_ss").run([[1, 38, 26]], {"max_new_tokens": 10})
    part = trace.steps[2].parts[0]
    for what, value in (
        ("tokens", (99, *part.tokens[1:])),
        ("draft", None),
        ("origins", ("ar", *part.origins[1:])),
        ("nfe", 7),
        ("forwards", part.forwards[:1]),
    ):
        found = compared(trace, changed(trace, 2, **{what: value}))
        assert found.apart is not None
        assert (found.apart.step, found.apart.what) == (2, what)
    shorter = compared(trace, replace(trace, steps=trace.steps[:-1]))
    assert shorter.apart is not None
    assert (shorter.apart.before, shorter.apart.now) == ("a step", "no step")
    assert compared(trace, trace).apart is None


def test_what_differs_is_named_down_to_the_list_or_the_value(watched: Watch) -> None:
    trace, _ = watched("linear_ss").run([list(range(1, 30))], {"max_new_tokens": 6})
    prefill, part = trace.steps[0].parts[0], trace.steps[1].parts[0]
    first, second = part.forwards
    assert part.draft is not None
    own = prefill.forwards[0]
    for step, what, values, shown in (
        (1, "forwards[1].adapted", {"forwards": (first, replace(second, adapted=(0,)))},
         ("()", "(0,)")),
        (1, "draft.accepted", {"draft": replace(part.draft, accepted=9)},
         (str(part.draft.accepted), "9")),
        (0, "forwards[0].tokens[28]",
         {"forwards": (replace(own, tokens=(*own.tokens[:-1], 77)),)}, ("29", "77")),
    ):  # fmt: skip
        apart = compared(trace, changed(trace, step, **values)).apart
        assert apart is not None
        assert (apart.what, (apart.before, apart.now)) == (what, shown)


def test_adapters_are_as_they_were_unless_others_are_given(tmp_path: Path) -> None:
    artifact = tmp_path / "lora"
    api.compile("linear_ss_lora", artifact, {"block_length": 4}, certify=False)
    traces = [
        watch(artifact, None, **LOADING, adapter=adapter).run([[5, 9]], {"max_new_tokens": 4})[0]
        for adapter in ("auto", None)
    ]
    assert [each.model.adapters for each in traces] == [("drafter",), ()]
    for trace in traces:
        again = replay(trace, artifact, None, {**LOADING, "adapter": "auto"})
        assert (again.apart, again.notes) == (None, ())
    without = replay(traces[0], artifact, None, {**LOADING, "adapter": None})
    assert without.notes == ("adapters: it was drafter, and is none",)
    assert without.apart is not None
    assert without.apart.what == "forwards[0].adapted"


def test_the_command_says_whether_a_run_is_the_same(
    compiled: Compiled, watched: Watch, tmp_path: Path
) -> None:
    trace, _ = watched("linear_ss").run([[1, 38, 26]], {"max_new_tokens": 10})
    rest = ["--model", str(CHECKPOINT), "--replay", str(compiled("linear_ss"))]
    write_trace(trace, tmp_path / "t.json")
    same = CliRunner().invoke(cli, ["trace", str(tmp_path / "t.json"), *rest])
    assert same.exit_code == 0, same.output
    assert f"every step is the same ({len(trace.steps)} steps)" in same.output
    part = trace.steps[1].parts[0]
    write_trace(changed(trace, 1, tokens=(9, *part.tokens[1:])), tmp_path / "u.json")
    other = CliRunner().invoke(cli, ["trace", str(tmp_path / "u.json"), *rest])
    assert other.exit_code == 1
    assert "step 1 of sequence 0 differs: tokens" in other.output


def test_a_chrome_trace_has_every_step_and_forward_within_its_step(
    watched: Watch, tmp_path: Path
) -> None:
    trace, _ = watched("block_diffusion").run(PROMPTS, {"max_new_tokens": 8})
    events = chrome_of(trace)["traceEvents"]
    steps = [each for each in events if each.get("cat") in ("prefill", "step") and not each["tid"]]
    assert len(steps) == len(trace.steps)
    for each in (event for event in events if event.get("cat") == "forward"):
        around = [
            step for step in steps
            if step["ts"] - 50 <= each["ts"]
            and each["ts"] + each["dur"] <= step["ts"] + step["dur"] + 500
        ]  # fmt: skip
        assert around
    write_trace(trace, tmp_path / "t.json")
    out = tmp_path / "c.json"
    done = CliRunner().invoke(cli, ["trace", str(tmp_path / "t.json"), "--chrome", str(out)])
    assert done.exit_code == 0
    assert len(json.loads(out.read_text())["traceEvents"]) == len(events)
