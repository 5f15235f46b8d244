"""The page on what engines do differently follows from the tables, sources included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nldc import api
from nldc.compat import SOURCES, page
from nldc.ir.attributes import ATTRIBUTE, PRESETS
from nldc.ir.ops import Repeat

ROOT = Path(__file__).parent.parent


def test_every_preset_sets_every_attribute_to_one_of_its_values() -> None:
    for values in PRESETS.values():
        assert set(values) == set(ATTRIBUTE)
        assert all(value in ATTRIBUTE[name].values for name, value in values.items())
    assert all(attribute.default in attribute.values for attribute in ATTRIBUTE.values())


def test_every_value_of_a_preset_has_a_source() -> None:
    assert set(SOURCES) == set(PRESETS)
    assert all(set(preset.notes) == set(ATTRIBUTE) for preset in SOURCES.values())


def test_the_step_that_the_page_shows_is_one(tmp_path: Path) -> None:
    step = next(text for text in page().split("```") if text.startswith("yaml\nstep:"))
    head = """nldc: 1
name: kept
summary: The example of the page.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append, counted: false}
"""
    file = tmp_path / "kept.yaml"
    file.write_text(head + step.removeprefix("yaml\n"), encoding="utf-8")
    checked = api.check(file)
    assert checked.warnings == ()
    loop = checked.graph.node("step.filled").op
    assert isinstance(loop, Repeat)
    assert loop.keys == "kept"


def test_the_page_in_docs_is_the_one_that_the_table_makes() -> None:
    written = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m nldc.compat docs/compat.md`"


def test_one_command_writes_the_page(tmp_path: Path) -> None:
    out = tmp_path / "compat.md"
    subprocess.run([sys.executable, "-m", "nldc.compat", str(out)], check=True, cwd=ROOT)
    assert out.read_text(encoding="utf-8") == page()
