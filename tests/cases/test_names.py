"""Names of a strategy never meet in generated code, whatever they are; where they would mean two
things in the language, the file is refused.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from nldc import api
from nldc.certify import certify
from nldc.codegen.emit_artifact import emit_artifact
from nldc.codegen.folder import write_folder
from nldc.codegen.names import Scope, folder_names, module_scope
from nldc.diagnostics import StrategyError
from nldc.ir.build import build
from nldc.reuse import parse
from nldc.runtime import Decoder
from nldc.runtime.abi import ADAPTER_FOLDER, DECODER_VARIABLES
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.backbone import Backbone
from tests.cases.decoders import CHECKPOINT, EOS, PROMPTS
from tests.cases.renaming import Names, renamed

HERE = Path(__file__).parent / "strategies"
RIGHT = (
    "kind_named_like_node",
    "node_name_collides_with_denoise_inner",
    "node_named_causal_clobbers_pattern",
    "nodes_differ_by_case",
)
SEEDS = range(3)


def emitted(text: str) -> dict[str, bytes]:
    """Return the files of a strategy's artifact; nothing is proved of it."""
    built = build(parse(text, "renamed.yaml"), {})
    assert built.graph is not None, [(d.message, d.labels) for d in built.found]
    return emit_artifact(built.graph, "renamed.yaml", text, api.__version__)


def generated(files: Mapping[str, bytes]) -> set[str]:
    """Return every identifier of generated code."""
    found = set()
    for file in files:
        tree = ast.parse(files[file]) if file.endswith(".py") else ast.Module([], [])
        for node in ast.walk(tree):
            found |= {getattr(node, key, None) for key in ("id", "name", "attr", "arg")}
    return {name for name in found if isinstance(name, str)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The small checkpoint's, loaded once."""
    kind = api.load(write_folder(tmp_path_factory.mktemp("ar") / "ar", emitted(text_of("ar"))))
    return kind.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu").model.backbone


def text_of(name: str) -> str:
    return api.library()[name].read_text("utf-8")


def behaviour(files: Mapping[str, bytes], folder: Path, backbone: Backbone) -> object:
    """Return what a decoder emits and takes, greedy and drawn, in a batch."""
    kind = api.load(write_folder(folder, files))
    adapter = Adapter.load(
        CHECKPOINT / ADAPTER_FOLDER, backbone.config, backbone.dtype, backbone.device
    )
    outcomes = []
    for temperature in (0.0, 0.8):
        decoder: Decoder = kind(backbone, adapters=dict.fromkeys(kind.ADAPTERS, adapter))
        result = decoder.generate(
            [list(p) for p in PROMPTS], max_new_tokens=9, eos=EOS, temperature=temperature
        )
        outcomes.append((result.tokens, [(s.nfe, list(s.accepted)) for s in result.stats]))
    return outcomes


@pytest.mark.parametrize("name", sorted(api.library()))
def test_a_strategy_under_other_names_does_what_it_did(
    name: str, tmp_path: Path, backbone: Backbone
) -> None:
    text = text_of(name)
    files = emitted(text)
    expected = behaviour(files, tmp_path / "own", backbone)
    for seed in SEEDS:
        other, names = renamed(text, seed, generated(files))
        assert behaviour(emitted(other), tmp_path / f"s{seed}", backbone) == expected, names


def test_the_new_names_do_meet() -> None:
    """Else the test above would prove little."""
    files = emitted(text_of("quadratic_ss_lora"))
    drawn = [renamed(text_of("quadratic_ss_lora"), n, generated(files))[1] for n in range(40)]

    def some(meets: object) -> bool:
        return any(meets(names) for names in drawn)  # type: ignore[operator]

    def shared(names: Names) -> set[str]:
        return set(names.nodes.values()) & set(names.kinds.values())

    assert some(lambda names: shared(names))
    assert some(lambda names: set(names.nodes.values()) & generated(files))
    assert some(lambda n: len({v.upper() for v in n.nodes.values()}) < len(n.nodes))


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_file_whose_names_meet_is_exact_and_equals_ar(name: str, tmp_path: Path) -> None:
    report = certify(api.compile(HERE / f"{name}.yaml", tmp_path / "out"), tokens=16)
    assert report.holds
    assert report.claimed == "exact"


@pytest.mark.parametrize("lowered", [False, True], ids=["as_it_is", "lowered"])
def test_a_param_named_like_what_a_decoder_sets_is_still_a_param(
    tmp_path: Path, lowered: bool
) -> None:
    """The body of a class sees its own variables before the constants of its module."""
    names = [name.lower() if lowered else name for name in DECODER_VARIABLES]
    param = {"type": "float", "default": 0.5, "min": 0.0, "max": 1.0, "runtime": True}
    params = dict.fromkeys(names, param)
    head, rest = text_of("ar").split("prefill:", 1)
    text = f"{head}params: {json.dumps(params)}\nprefill:{rest}"
    kind = api.load(write_folder(tmp_path / "out", emitted(text)))
    assert [param.name for param in kind.PARAMS] == names


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(StrategyError) as caught:
        api.check_source(parse(text, "case.yaml"))
    return [(found.code, found.message) for found in caught.value.diagnostics]


def test_a_param_named_like_a_kind_is_refused_as_ambiguous() -> None:
    text = (HERE / "param_named_like_kind.yaml").read_text("utf-8")
    assert refused(text) == [("NLD018", "`mask` is both a param and a kind of rows")]


LINEAR = """nldc: 1
name: linear
summary: One block a step.
guarantee: none
params: {PARAM: {type: int, default: 4, min: 1, max: 8}}
adapters: {ADAPTER: {kind: lora}}
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {CARRIED: prefill.seed}
step:
  block:   {op: rows, segments: [{tokens: CARRIED}, {masks: PARAM, kind: KIND}]}
  seen:    {op: forward, tokens: block, attention: bidirectional, cache: read, adapter: ADAPTER}
  guess:   {op: sample, logits: "seen[kind == KIND]"}
  NODE:    {op: join, parts: [CARRIED, guess]}
  stored:  {op: forward, tokens: NODE, attention: causal, cache: append}
  after:   {op: sample, logits: stored.last}
  emit:    {tokens: "NODE[1:]", cache: keep all, next: {CARRIED: after}}
"""
PLAIN = {"PARAM": "size", "ADAPTER": "lora", "CARRIED": "seed", "KIND": "mask", "NODE": "drafted"}


def linear(**names: str) -> str:
    text = LINEAR
    for place, name in {**PLAIN, **names}.items():
        text = text.replace(place, name)
    return text


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *(("PARAM", name) for name in ("row", "kind", "score", "rank", "left", "live", "masked")),
        *(("KIND", name) for name in ("row", "first", "last", "tokens", "prefix", "position")),
        *(("NODE", name) for name in ("row", "q", "carry", "and", "not")),
        *(("CARRIED", name) for name in ("group", "k", "prefill", "or")),
        *((place, "é") for place in ("PARAM", "ADAPTER", "NODE", "CARRIED")),
        *((place, "ﬁ") for place in ("PARAM", "NODE", "CARRIED")),
        *((place, "a" * 65) for place in ("PARAM", "ADAPTER", "NODE", "CARRIED")),
    ],
)
def test_a_name_that_means_something_already_or_is_none_is_refused(place: str, name: str) -> None:
    codes = {code for code, _ in refused(linear(**{place: name}))}
    assert "NLD018" in codes


@pytest.mark.parametrize(
    ("places", "name"),
    [
        (("NODE", "KIND"), "draft"),
        (("NODE", "ADAPTER"), "drafter"),
        (("KIND", "ADAPTER"), "drafter"),
        (("PARAM", "ADAPTER"), "drafter"),
        (("PARAM", "NODE"), "size"),
        (("PARAM", "CARRIED"), "size"),
        (("NODE",), "a" * 64),
        (("NODE",), "score"),
        (("PARAM",), "k"),
        (("KIND",), "causal"),
    ],
)
def test_names_that_never_meet_in_an_expression_may_be_equal(
    places: tuple[str, ...], name: str, tmp_path: Path, backbone: Backbone
) -> None:
    expected = behaviour(emitted(linear()), tmp_path / "plain", backbone)
    text = linear(**dict.fromkeys(places, name))
    assert behaviour(emitted(text), tmp_path / "out", backbone) == expected


def test_a_loops_settings_and_inner_names_are_no_uses_of_outer_nodes() -> None:
    text = linear().replace(
        "  guess: ", "  filled: {op: repeat, on: block, until: full, at_most: size, body: {\n"
        "    mask: {op: forward, tokens: block, attention: bidirectional, cache: read},\n"
        "    after: {op: sample, logits: mask},\n"
        "    stored: {op: score, logits: mask, tokens: after, by: probability},\n"
        "    full: {op: select, among: block.masked, score: stored, best: size},\n"
        "    block: {op: fill, rows: block, where: full, tokens: after}}}\n  guess: ",
    ).replace("NODE", "drafted").replace("[seed, guess]", '[seed, "filled[1:]"]')  # fmt: skip
    assert b"filled" in emitted(text)["decode.py"]


def test_an_allotted_name_meets_nothing_outside_or_inside() -> None:
    module = module_scope()
    first, second = module.inside(("self",)), module.inside(("self",))
    assert first.allot("checked") == "checked"
    assert second.allot("checked") == "checked"
    assert module.allot("checked") == "checked_"
    assert first.allot("checked") == "checked_2"
    assert first.inside().allot("checked_2") == "checked_2_"
    assert [module.allot(name) for name in ("class", "range", "Tensor", "tl", "self")] == [
        "class_", "range_", "Tensor_", "tl_", "self_",
    ]  # fmt: skip
    assert Scope().allot_all(["a", "a", "a", "a"]) == ("a", "a_", "a_2", "a_3")


def test_folders_differ_by_more_than_case() -> None:
    names = ["decode", "Decode", "a", "A", "a_", "class", "Decoder", "kernels", "__x"]
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert folders["a"] == "a"
    assert folders["kernels"] == "kernels"


def test_strategies_that_differ_by_case_compile_into_one_artifact(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(("linear", "Linear", "a_b", "aB", "Handover", "decode")):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(text_of("ar").replace("name: ar", f"name: {name}"), encoding="utf-8")
    folder = api.compile(files, tmp_path / "out")
    parts = json.loads((folder / "manifest.json").read_text("utf-8"))["strategies"]
    assert len({part["folder"].casefold() for part in parts.values()}) == 6
    kinds = api.load(folder).PARTS  # type: ignore[attr-defined]
    assert [kind.STRATEGY for kind in kinds.values()] == list(parts)


def test_no_attribute_of_a_decoder_looks_like_the_method_of_a_step() -> None:
    assert not [name for name in dir(Decoder) if name.startswith("step_")]
