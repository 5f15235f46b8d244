"""Wrong generated code is found before an artifact is written: see mutants_artifacts.yaml."""

from __future__ import annotations

from functools import cache

import pytest
import yaml

from nldc import api
from nldc.diagnostics import InternalError
from nldc.runtime.errors import ArtifactError
from tests.lossless.mutants import HERE
from tests.lossless.test_certify import in_text, sealed

TABLE: list[dict[str, str]] = yaml.safe_load((HERE / "mutants_artifacts.yaml").read_text("utf-8"))


@cache
def generated(strategy: str) -> dict[str, str]:
    return in_text(api.generate)([api.check(strategy, others=False)])


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant["name"])
def test_an_edit_of_generated_code_is_found_before_it_is_written(
    mutant: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = dict(generated(mutant["strategy"]))
    text = files[mutant["file"]]
    assert text.count(mutant["old"]) == 1, f"{text.count(mutant['old'])} places to edit"
    files[mutant["file"]] = text.replace(mutant["old"], mutant["new"])

    def edited(*_: object) -> dict[str, str]:
        return sealed(files)

    monkeypatch.setattr(api, "generate", edited)
    out = tmp_path_factory.getbasetemp() / mutant["name"]
    with pytest.raises((InternalError, ArtifactError), match=f"`{mutant['strategy']}`"):
        api.compile(mutant["strategy"], out)
    assert not out.exists()


def test_there_are_enough_and_no_two_are_the_same() -> None:
    assert len(TABLE) >= 30
    assert len({mutant["name"] for mutant in TABLE}) == len(TABLE)
    assert len({tuple(sorted(mutant.items())[1:]) for mutant in TABLE}) == len(TABLE)
