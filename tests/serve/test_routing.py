"""Which strategy decodes at which load, and artifacts that are served together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asking import TEXT, answer, post, problem

from nldc import api
from nldc.runtime import Progress, PromptError
from nldc.runtime.engine.handover import Handover
from nldc.runtime.errors import ArtifactError
from nldc.serve.app import create_app
from nldc.serve.artifacts import Way, load_together
from nldc.serve.routing import Route, by_default, chooser, parse
from nldc.serve.settings import Settings

EASY = Handover(1, 1, 0, {})
NO_WAY = Handover(None, None, 0, {})


def way(name: str, guarantee: str, bonus: Any) -> Way:
    return Way(name, guarantee, "", bonus)


FAST, AR = way("fast", "exact", "last"), way("ar", "exact", None)
LOSSY = way("lossy", "none", None)


def progress(live: int, strategy: str = "") -> Progress:
    return Progress(0, 1, (), 0, strategy, live)


def test_a_route_takes_the_first_rule_that_holds() -> None:
    route = parse("ar: live > 8, fast : live>2,slow", ["ar", "fast", "slow"])
    assert [route.at(live) for live in (1, 2, 3, 8, 9)] == ["slow", "slow", "fast", "fast", "ar"]
    assert parse(str(route), ["ar", "fast", "slow"]) == route


@pytest.mark.parametrize(
    "text", ["", "other", "ar: live > x, ar", "ar: dead > 3, ar", "ar: live > 3"]
)
def test_a_route_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        parse(text, ["ar"])


@pytest.mark.parametrize(
    ("ways", "handover", "rules"),
    [
        ((FAST, AR), EASY, (("ar", 8),)),
        ((FAST, LOSSY, AR), EASY, (("ar", 8),)),
        ((FAST, AR), NO_WAY, ()),
        ((FAST, LOSSY), EASY, ()),
        ((LOSSY, AR), EASY, ()),
        ((AR, FAST), EASY, ()),
        ((FAST,), None, ()),
    ],
)
def test_by_default_no_answer_depends_on_the_load(
    ways: tuple[Way, ...], handover: Handover | None, rules: Any
) -> None:
    found = by_default({each.name: each for each in ways}, {each.name: handover for each in ways})
    assert found == Route(rules, ways[0].name)


def test_a_sequence_that_may_not_go_stays() -> None:
    route = Route((("ar", 2),), "fast")
    free = chooser(route, {"ar": EASY, "fast": EASY})
    assert free(progress(3)) == free(progress(3, "fast")) == "ar"
    assert free(progress(1, "ar")) == "fast"
    held = chooser(route, {"ar": NO_WAY, "fast": NO_WAY})
    assert held(progress(3)) == "ar"
    assert held(progress(3, "fast")) == "fast"


def test_artifacts_are_served_together(tmp_path: Path, model: Path) -> None:
    names = ("linear_ss", "quadratic_ss", "ar")
    settings = {"block_length": 4}
    folders = [
        api.compile(name, tmp_path / name, settings if name != "ar" else None, certify=False)
        for name in names
    ]
    kind, ways = load_together(folders)
    assert {name: way.bonus for name, way in ways.items()} == {
        "linear_ss": "last",
        "quadratic_ss": "first",
        "ar": None,
    }
    app = create_app(kind.from_checkpoint(model, device="cpu"), ways, Settings(temperature=0))
    try:
        bodies = [{"prompt": "def f(", "max_tokens": 12, "strategy": name} for name in names]
        found = [answer(app, TEXT, **body, nldc={"metrics": True}) for body in bodies]
        assert len({one["choices"][0]["text"] for one in found}) == 1
        assert [one["metrics"]["strategies"] for one in found] == [[name] for name in names]
        late = post(app, TEXT, {"prompt": "a", "strategy": "ar:2,linear_ss"})
        assert "cannot go from" in problem(late, 400)["message"]
    finally:
        app.state.service.close()
    with pytest.raises(ArtifactError, match="two of the artifacts"):
        load_together([folders[0], folders[0]])
