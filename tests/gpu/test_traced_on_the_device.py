"""Traced runs on a GPU: the tokens of any other run, and no wait but those of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.trace.running import watch
from tests.gpu.waits import without_waits
from tests.library import short_steps

pytestmark = pytest.mark.gpu
PROMPTS = [[5, 9], [8], [7, 3]]


@pytest.mark.parametrize(
    "name", ["ar", "block_diffusion", "linear_ss", "quadratic_ss", "lookahead"]
)
def test_a_traced_run_waits_for_nothing_of_its_own(name: str, tmp_path: Path) -> None:
    folder = api.compile(name, tmp_path / name, short_steps(name, 8), certify=False)
    plain = api.load(folder).from_checkpoint(None, device="cuda")
    own = watch(folder, None, device="cuda")
    own.run(PROMPTS, {"max_new_tokens": 8})  # tables are put there
    for options in ({"max_new_tokens": 32}, {"max_new_tokens": 32, "temperature": 0.8, "seed": 3}):
        with without_waits(), own.listening() as recorder:
            found = own.decoder.generate(PROMPTS, **options)
        assert found.tokens == plain.generate(PROMPTS, **options).tokens
        ends = list(zip(map(len, found.tokens), found.finish, strict=True))
        trace = own.trace(recorder, options, ends)
        assert trace.problem() is None
        parts = [part for step in trace.steps for part in step.parts]
        assert all(each.seconds > 0 for part in parts for each in part.forwards)
