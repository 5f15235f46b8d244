"""Pictures of which rows see which."""

from __future__ import annotations

from nldc import api
from nldc.explain import MAX_PICTURE, between_steps, explain, picture, promise


def test_the_picture_of_the_quadratic_layout_shows_verifier_rows_and_groups() -> None:
    graph = api.check("quadratic_ss", {"block_length": 2}).graph
    assert picture(graph, graph.node("step.both")).splitlines()[1:] == [
        "                 prefix",
        "  draft 0 at +0  ■ ■·····",
        "  mask 1 at +1   ■ ■■■···",
        "  mask 2 at +2   ■ ■■■···",
        "  draft 3 at +1  ■ ■··■··",
        "  mask 4 at +2   ■ ■··■■■",
        "  mask 5 at +3   ■ ■··■■■",
    ]


def test_large_layouts_are_drawn_in_part() -> None:
    graph = api.check("quadratic_ss", {"block_length": 8}).graph
    lines = picture(graph, graph.node("step.both")).splitlines()
    assert len(lines) == MAX_PICTURE + 2
    assert "72 rows" in lines[0]


def test_every_step_of_a_routed_strategy_is_drawn() -> None:
    text = explain(api.check("concurrency_router"))
    assert "single.context: 1 rows" in text
    assert "speculative.checked: 16 rows" in text


def test_a_proof_names_the_rows_that_it_rests_on() -> None:
    text = promise(api.check("quadratic_ss", {"block_length": 3}))
    assert text.startswith(
        "guarantee: exact\nproved exact for these params, in 3 outcomes:\n  source: "
    )
    assert "    by rows 0, 4, 8 of step.both" in text


def test_what_is_not_exact_says_why() -> None:
    text = promise(api.check("block_diffusion"))
    assert text.startswith("guarantee: none\nnot exact: ")
    assert "(NLD101)" in text


def test_what_is_left_between_steps_is_said_in_words() -> None:
    assert between_steps(api.check("linear_ss")).splitlines() == [
        "between steps: the cache holds the causal rows of the text, all but its last token's",
        "it goes on for another strategy from 1 token behind the cache: seed[0] = token 0",
    ]
    assert "for another strategy from 0 tokens" in between_steps(api.check("block_diffusion@vllm"))
    assert "between steps: the cache holds" in explain(api.check("quadratic_ss"))
