"""Strategies written by someone who had not seen the compiler, to be taken for what they are not.

The first line of a file says what becomes of it: `exact` or `none`, which generated code then has
to keep, or a code and the node that it is found at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.runtime import Decoder
from tests.cases.decoders import CHECKPOINT
from tests.cases.test_cases import runs_as_it_means

HERE = Path(__file__).parent / "adversary"
FILES = sorted(HERE.glob("*.yaml"))
MASK = 33
EOS = 53


def expected(path: Path) -> list[str]:
    """Return the words of a file's first line up to its colon."""
    return path.read_text("utf-8").splitlines()[0].removeprefix("#").split(":")[0].split()


ACCEPTED = [path for path in FILES if expected(path)[0] in ("exact", "none")]
REFUSED = [path for path in FILES if path not in ACCEPTED]


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_what_is_accepted_runs_as_it_means_and_is_what_it_promises(path: Path) -> None:
    checked = api.check(path)
    assert [checked.guarantee] == expected(path)
    runs_as_it_means(checked)


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_what_is_wrong_is_refused_at_the_node_that_is_wrong(path: Path) -> None:
    code, node = expected(path)
    with pytest.raises(StrategyError) as refused:
        api.check(path)
    first = next(found for found in refused.value.diagnostics if found.severity == "error")
    assert first.code == code
    assert first.span is not None
    line = path.read_text("utf-8").splitlines()[first.span.start_line - 1]
    assert line.split(":")[0].strip() == node
    assert first.help


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Decodes by AR, and by a strategy that fills what lies behind the text."""
    both = api.check_together([HERE / "none_two_tokens_behind.yaml", "ar"])
    kind = api.load(api.write(both, tmp_path_factory.mktemp("behind") / "both"))
    return kind.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu", backend="torch")


@pytest.mark.parametrize("prompt", [[1, 5, 9, EOS], [EOS, EOS], [7, EOS], [1, EOS, 3]])
@pytest.mark.parametrize("before", [1, 2])
def test_an_eos_of_the_prompt_is_not_handed_to_a_strategy_that_fills_behind_it(
    prompt: list[int], before: int, behind: Decoder
) -> None:
    assert behind.config.mask_token_id == MASK
    result = behind.generate(
        [prompt],
        max_new_tokens=12,
        eos=(EOS,),
        strategy=lambda progress: "ar" if len(progress.tokens) < before else "two_tokens_behind",
    )
    assert MASK not in result.tokens[0]


def test_a_strategy_that_may_not_be_left_goes_into_an_artifact_with_others(tmp_path: Path) -> None:
    both = api.check_together([HERE / "none_of_what_was_chosen_before.yaml", "ar"])
    assert api.switching(both)["chosen_before"]["trails"] is None
    kind = api.load(api.write(both, tmp_path / "both"))
    assert set(kind.HANDOVERS) == {"chosen_before", "ar"}
