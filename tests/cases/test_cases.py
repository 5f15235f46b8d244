"""Strategies that were written to break the compiler: each does what its first line expects.

A file is refused with its codes, or compiled and run: generated code must do what the interpreter
does, and where it promises to be exact, what AR does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.interpret import run as interpret
from tests.lossless import compiled
from tests.lossless.hash_model import Input, inputs, with_only

HERE = Path(__file__).parent / "strategies"
FILES = sorted(HERE.glob("*.yaml"))
REFUSED = "refused"
SECONDS = 30.0
TOKENS = 14


@dataclass(frozen=True)
class Expected:
    """What may become of a file: one of `answers` (a guarantee, or refused).

    `codes`: one of them is among the errors of what is refused. `warns`: there is a warning.
    `says`: a word of some message.
    """

    answers: tuple[str, ...]
    codes: tuple[str, ...] = ()
    warns: bool = False
    says: str = ""


EXACT = Expected(("exact",))
NONE = Expected(("none",))
WRONG = Expected((REFUSED,))
EITHER = Expected((REFUSED, "exact"))
MASKS = Expected((REFUSED,), ("NLD118",))

EXPECTED: Mapping[str, Expected] = {
    "a_remask_low_confidence": NONE,
    "b2_jacobi_inner_fixed_point_attempt": Expected((REFUSED, "exact", "none")),
    "b_jacobi": EXACT,
    "c_adaptive_length_attempt": Expected(("exact",)),
    "copies_stall_a_loop_none": MASKS,
    "d_tree_two_candidates": EXACT,
    "fill_of_other_rows_none": MASKS,
    "float_in_where": EITHER,
    "forward_over_ragged_tokens": EITHER,
    "iteration_after_unroll": EXACT,
    "junk_eos_emits_masks_none": MASKS,
    "junk_masked_row_none": MASKS,
    "kind_named_like_node": EXACT,
    "last_row_by_itself": WRONG,
    "loop_stalls_none": MASKS,
    "masks_of_other_rows": Expected((REFUSED,), ("NLD122",)),
    "mix_weight_zero_first_other_positions": EITHER,
    "nested_repeat": NONE,
    "node_name_collides_with_denoise_inner": EXACT,
    "node_named_causal_clobbers_pattern": EXACT,
    "nodes_differ_by_case": EXACT,
    "none_prefill_adapter_threshold": NONE,
    "param_named_like_kind": EITHER,
    "position_of_a_billion": WRONG,
    "prefill_of_many_forwards_scratch": EXACT,
    "prompt_all_but_the_last": EXACT,
    "r_mixed_with_itself": EXACT,
    "r_prefill_difference_of_rows": EXACT,
    "slow_to_check": Expected((REFUSED, "exact"), ("NLD121",)),
    "three_tokens_behind": EXACT,
    "w03_last_target_of_the_drafter": WRONG,
    "w04_offset_zero_with_the_seed": WRONG,
    "w18_window_of_4096_in_the_prefill": WRONG,
    "w25_counted_false_on_the_verifier": Expected(("exact", REFUSED), warns=True),
    "w26_wrong_only_for_large_params": Expected(("exact", REFUSED), warns=True),
}


def test_every_file_has_an_expectation_and_every_expectation_a_file() -> None:
    assert {path.stem for path in FILES} == set(EXPECTED)
    for path in FILES:
        assert "xpected" in path.read_text("utf-8").splitlines()[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_case_does_what_its_first_line_expects(path: Path, tmp_path: Path) -> None:
    expected = EXPECTED[path.stem]
    start = time.process_time()
    try:
        checked = api.check(path)
    except StrategyError as error:
        assert time.process_time() - start < SECONDS
        errors = [found for found in error.diagnostics if found.severity == "error"]
        assert REFUSED in expected.answers, [found.message for found in errors]
        assert not expected.codes or {found.code for found in errors} & set(expected.codes)
        assert all(found.span is not None and found.span.start_line > 1 for found in errors)
        assert expected.says in " ".join(found.message for found in errors)
        return
    assert time.process_time() - start < SECONDS
    assert checked.guarantee in expected.answers
    assert checked.warnings or not expected.warns
    runs_as_it_means(checked)
    api.write([checked], tmp_path / "out")


def runs_as_it_means(checked: api.Checked) -> None:
    """Hold generated code against the interpreter, and against AR if that is promised."""
    graph = checked.graph
    kind = compiled.load(api.generate([checked]))
    steps = [name for name in vars(kind) if name.startswith("step_")] or ["step"]
    long = [
        Input(tuple((7 * i + n) % 5 for i in range(45 + 20 * n)), n, n > 0, 0.75) for n in (0, 1)
    ]
    for own, step in zip(graph.steps, steps, strict=True):
        alone = with_only(graph, own)
        by_ends = [[each for each in inputs(16) if each.eos == ends] for ends in ((), (5,), (5, 1))]
        for given in (*by_ends, long):
            most = TOKENS if given is not long else 4
            for each, ran in zip(given, compiled.run(kind, given, most, step), strict=True):
                model = each.model()
                meant = interpret(alone, model, each.prompt, most, model.choose, most_steps=60)
                assert (ran.tokens, ran.accepted) == (meant.tokens, meant.accepted), each
                assert ran.nfe == meant.nfe, each
                if graph.guarantee == "exact":
                    assert ran.tokens == each.model().expected(most), each


def test_a_param_that_is_wrong_only_when_large_is_refused_there() -> None:
    with pytest.raises(StrategyError, match="NLD10"):
        api.check(HERE / "w26_wrong_only_for_large_params.yaml", {"block_length": 16})


def test_three_tokens_behind_is_entered_from_ar_at_any_prompt(tmp_path: Path) -> None:
    api.compile(["ar", HERE / "three_tokens_behind.yaml"], tmp_path / "out")


def test_the_adapter_of_the_first_forty_rows_is_printed_so() -> None:
    files = api.generate([api.check(HERE / "none_prefill_adapter_threshold.yaml")])
    assert b"40" in files["decode.py"]
    assert b"50" in files["decode.py"]
