"""The thinking budget binds every mode alike: exact strategies stay AR's under the same budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from random_model import random_checkpoint

from nldc import api
from nldc.certify import certify
from nldc.cli import cli
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.errors import PromptError
from nldc.runtime.rows.plan import Plan
from nldc.runtime.text.thinking_marks import thinking_marks
from nldc.runtime.text.tokenizer import Tokenizer
from tests.library import exact, short_steps

CHECKPOINT = Path(__file__).parent.parent / "golden_checkpoints" / "random-1"
LIBRARY = sorted(api.library())
EXACT = [name for name in exact() if name != "ar"]
PROMPTS = [[1, 38, 26], [5], [7] * 9]
LENGTH, SHORT = 20, 10


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compile and load a strategy once; they share the weights of AR."""
    root = tmp_path_factory.mktemp("artifacts")
    known: dict[str, Decoder] = {}

    def get(name: str) -> Decoder:
        if name not in known:
            artifact = api.compile(name, root / name, short_steps(name, 5), certify=False)
            kind = api.load(artifact)
            options: dict[str, Any] = {"dtype": "float64", "device": "cpu", "backend": "torch"}
            known[name] = kind.from_checkpoint(CHECKPOINT, **options)
        return known[name]

    return get


def oracle(ar: Decoder, prompt: list[int], key: int, limit: int, end: int, **options: Any) -> Any:
    """AR under a budget without the budget's code: stop, add the token by hand, and go on."""
    options |= {"eos": (), "sequence_ids": [key]}
    free = ar.generate([prompt], max_new_tokens=LENGTH, **options).tokens[0]
    if end in free[:limit]:
        return free
    begun = [*free[:limit], end]
    if len(begun) >= LENGTH:
        return begun
    rest = ar.generate([prompt + begun], max_new_tokens=LENGTH - len(begun), **options)
    return begun + rest.tokens[0]


def budgets(ar: Decoder, **options: Any) -> list[tuple[int, int]]:
    """Limits and end tokens: never chosen by itself, and chosen before, at and after the limit."""
    free = ar.generate(PROMPTS, max_new_tokens=LENGTH, eos=(), **options).tokens
    never = next(t for t in range(3, ar.config.vocab_size) if all(t not in f for f in free))
    found = [(limit, never) for limit in (0, 1, 6, 13)]
    for place in (0, 5, 11):
        token = free[0][place]
        if token != ar.config.mask_token_id:
            found += [(place + 1, token), (max(0, place - 1), token)]
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_ar_under_a_budget_is_ar_with_the_token_put_in(load: Any, temperature: float) -> None:
    ar, options = load("ar"), {"temperature": temperature, "seed": 3}
    for limit, end in budgets(ar, **options):
        found = ar.generate(
            PROMPTS, max_new_tokens=LENGTH, eos=(), max_thinking_tokens=limit,
            end_think_token_id=end, **options,
        ).tokens  # fmt: skip
        for place, prompt in enumerate(PROMPTS):
            assert found[place] == oracle(ar, prompt, place, limit, end, **options)


@pytest.fixture(scope="module")
def under_budgets(load: Any) -> list[tuple[dict[str, Any], list[list[int]]]]:
    """What AR says under budgets: greedy under every other one, drawn under those between."""
    ar, found = load("ar"), []
    for first, temperature in enumerate((0.0, 0.9)):
        options: dict[str, Any] = {"temperature": temperature, "seed": 3}
        for limit, end in budgets(ar, **options)[first::2]:
            options |= {
                "max_new_tokens": LENGTH, "max_thinking_tokens": limit, "end_think_token_id": end
            }  # fmt: skip
            found.append((dict(options), ar.generate(PROMPTS, **options).tokens))
    return found


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_strategy_is_ar_under_the_same_budget(
    load: Any, under_budgets: list[tuple[dict[str, Any], list[list[int]]]], name: str
) -> None:
    decoder = load(name)
    for options, want in under_budgets:
        assert decoder.generate(PROMPTS, **options).tokens == want, options
    options, want = under_budgets[-1]
    assert decoder.generate(PROMPTS, batch_size=1, **options).tokens == want


@pytest.mark.parametrize("name", LIBRARY)
def test_no_strategy_thinks_longer_than_the_budget(load: Any, name: str) -> None:
    decoder = load(name)
    free = decoder.generate(PROMPTS, max_new_tokens=LENGTH, eos=()).tokens
    end = next(t for t in range(3, decoder.config.vocab_size) if all(t not in f for f in free))
    for limit in (0, 7):
        found = decoder.generate(
            PROMPTS, max_new_tokens=LENGTH, eos=(), max_thinking_tokens=limit,
            end_think_token_id=end,
        ).tokens  # fmt: skip
        places = [tokens.index(end) for tokens in found]
        # A row that sees later rows may choose the end before it must.
        assert places == [limit] * 3 if name in EXACT else max(places) <= limit


def test_a_budget_that_is_not_reached_changes_nothing(load: Any) -> None:
    # A block filled in both directions may see an end that lies behind `max_new_tokens`.
    for name, limit in (("ar", LENGTH), ("linear_ss", LENGTH), ("block_diffusion", 200)):
        decoder = load(name)
        free = decoder.generate(PROMPTS, max_new_tokens=LENGTH)
        found = decoder.generate(
            PROMPTS, max_new_tokens=LENGTH, max_thinking_tokens=limit, end_think_token_id=9
        )
        assert found.tokens == free.tokens
        assert [s.nfe for s in found.stats] == [s.nfe for s in free.stats]


def test_an_end_of_thinking_in_the_prompt_does_not_count(load: Any) -> None:
    found = load("ar").generate(
        [[9, 5]], max_new_tokens=3, max_thinking_tokens=1, end_think_token_id=9, eos=()
    )
    assert found.tokens[0][1] == 9 or found.tokens[0][0] == 9


def test_a_processor_or_filter_cannot_take_the_end_of_thinking_away(load: Any) -> None:
    def ban(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(torch.arange(logits.shape[-1]) == 9, -torch.inf)

    found = load("linear_ss").generate(
        PROMPTS, max_new_tokens=6, max_thinking_tokens=4, end_think_token_id=9, eos=(),
        processors=[ban], temperature=0.8, top_k=1, top_p=0.5, min_p=0.5,
    )  # fmt: skip
    assert [tokens[4] for tokens in found.tokens] == [9] * 3


def test_the_checkpoint_may_name_the_end_of_thinking(tmp_path: Path) -> None:
    artifact = api.load(api.compile("ar", tmp_path / "ar", certify=False))
    options: dict[str, Any] = {"dtype": "float64", "device": "cpu", "backend": "torch"}
    by_config = random_checkpoint(tmp_path / "config", end_think_token_id=33)
    assert artifact.from_checkpoint(by_config, **options).end_think_token_id == 33
    by_tokenizer = random_checkpoint(tmp_path / "tokenizer", text=True)
    path = by_tokenizer / "tokenizer_config.json"
    for settings in ({"end_think_token": "[BOT]"}, {"end_think_token_id": 3}):
        path.write_text(json.dumps(settings))
        decoder = artifact.from_checkpoint(by_tokenizer, **options)
        assert decoder.end_think_token_id == 3
        found = decoder.generate([[5]], max_new_tokens=4, max_thinking_tokens=2, eos=())
        assert found.tokens[0].index(3) <= 2
    pieces = decoder.stream([5], max_new_tokens=4, max_thinking_tokens=0, eos=())
    assert "".join(pieces) == decoder.tokenizer.decode(
        decoder.generate([[5]], max_new_tokens=4, max_thinking_tokens=0, eos=()).tokens[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_thinking_tokens": -1}, "max_thinking_tokens -1 is not allowed"),
        ({"max_thinking_tokens": 1.5}, "max_thinking_tokens 1.5 is not allowed"),
        ({"max_thinking_tokens": 4}, "max_thinking_tokens needs the token that ends thinking"),
        ({"max_thinking_tokens": 4, "end_think_token_id": 10**6}, "end_think_token_id 1000000 is"),
        ({"end_think_token_id": 4}, "end_think_token_id 4 has no effect without"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    load: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError) as caught:
        load("ar").generate([[3]], **options)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_both_marks_of_thinking_must_be_tokens_and_two(load: Any) -> None:
    for start, message in ((-1, "start_think_token_id -1 is no token"), (9, "both starts and ends"),
                           (load("ar").config.mask_token_id, "is the mask token")):  # fmt: skip
        with pytest.raises(PromptError, match=message):
            load("ar").generate(
                [[3]], max_thinking_tokens=3, end_think_token_id=9, start_think_token_id=start
            )
    with pytest.raises(PromptError, match="start_think_token_id 4 has no effect without"):
        load("ar").generate([[3]], start_think_token_id=4)


def must_end(prompt: list[int], text: list[int], limit: int, start: int, end: int) -> bool:
    """Whether the next token must end a thought: the rule, said one token at a time."""
    opened = None
    for place, token in enumerate(prompt):
        if token in (start, end):
            opened = place if token == start else None
    for place, token in enumerate(text, len(prompt)):
        if token == end:
            opened = None
        elif token == start and opened is None:
            opened = place
    here = len(prompt) + len(text)
    return opened is not None and here == max(opened + 1 + limit, len(prompt))


def watched(
    ar: Decoder, prompt: list[int], key: int, marks: tuple[int, int, int], **options: Any
) -> list[int]:
    """AR that is stopped wherever a thought must end, and goes on behind the token put in."""
    text: list[int] = []
    while len(text) < SHORT:
        free = ar.generate(
            [prompt + text], max_new_tokens=SHORT - len(text), eos=(), sequence_ids=[key],
            **options,
        ).tokens[0]  # fmt: skip
        for token in free:
            if must_end(prompt, text, *marks):
                text.append(marks[2])
                break
            text.append(token)
    return text


def marks_of(ar: Decoder, **options: Any) -> list[tuple[int, int, int]]:
    """Limits with marks that the model writes itself, once and again, and with one it does not."""
    free = ar.generate([[5]], max_new_tokens=LENGTH, eos=(), **options).tokens[0]
    usual = [token for token in free if token != ar.config.mask_token_id]
    never = next(token for token in range(3, ar.config.vocab_size) if token not in free)
    first, second = list(dict.fromkeys(usual))[:2]
    return [(2, first, never), (0, second, never), (3, first, second), (5, never, first)]


def inside(start: int, end: int) -> list[list[int]]:
    """Prompts whose thoughts are open, closed, opened again, used up, and not begun."""
    return [
        [7, start], [7, start, 8, 8], [start, 7, end], [start, end, start, 8], [end, 8],
        [start, *[8] * 9], [start, start, 8], [8, 8],
    ]  # fmt: skip


def test_the_budget_knows_whether_the_prompt_is_inside_a_thought(load: Any) -> None:
    ar, options = load("ar"), {"temperature": 0.9, "seed": 3}
    for limit, start, end in marks_of(ar, **options):
        prompts = inside(start, end)
        found = ar.generate(
            prompts, max_new_tokens=SHORT, eos=(), max_thinking_tokens=limit,
            start_think_token_id=start, end_think_token_id=end, batch_size=3, **options,
        ).tokens  # fmt: skip
        assert found == [
            watched(ar, prompt, key, (limit, start, end), **options)
            for key, prompt in enumerate(prompts)
        ]


@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss", "tidar"])
def test_an_exact_strategy_ends_the_same_thoughts_as_ar(load: Any, name: str) -> None:
    ar, decoder = load("ar"), load(name)
    options: dict[str, Any] = {"temperature": 0.9, "seed": 3, "max_new_tokens": LENGTH, "eos": ()}
    for limit, start, end in marks_of(ar, temperature=0.9, seed=3):
        options |= {
            "max_thinking_tokens": limit, "start_think_token_id": start, "end_think_token_id": end
        }  # fmt: skip
        prompts = inside(start, end)
        want = ar.generate(prompts, **options).tokens
        assert decoder.generate(prompts, batch_size=3, **options).tokens == want


@pytest.mark.parametrize("name", ["block_diffusion"])
def test_a_block_ends_a_thought_of_the_prompt_in_time_and_begins_none(load: Any, name: str) -> None:
    decoder = load(name)
    free = decoder.generate([[7, 3], [3, 7, 4]], max_new_tokens=LENGTH, eos=()).tokens
    used = {token for tokens in free for token in tokens}
    unused = set(range(9, decoder.config.vocab_size)) - used - {decoder.config.mask_token_id}
    start, end = sorted(unused)[:2]
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "eos": ()}
    prompts = [[7, start, 8], [start, 7, end]]
    plain = decoder.generate(prompts, **options).tokens
    found = decoder.generate(
        prompts, max_thinking_tokens=6, start_think_token_id=start, end_think_token_id=end,
        **options,
    ).tokens  # fmt: skip
    assert found[0].index(end) <= 5
    assert end in plain[1] or end not in found[1]


def test_a_prompt_of_embeddings_only_is_answered_with_a_thought(load: Any) -> None:
    decoder = load("ar")
    prompt = PromptEmbeddings(decoder.embed([7, 9, 8]))
    options: dict[str, Any] = {
        "max_new_tokens": 4, "eos": (), "max_thinking_tokens": 2, "start_think_token_id": 9,
        "end_think_token_id": 10,
    }  # fmt: skip
    assert 10 in decoder.generate(prompt, **options).tokens[0][:3]
    known = PromptEmbeddings(prompt.embeddings, [7, 9, 8])
    want = decoder.generate([[7, 9, 8]], **options).tokens
    assert decoder.generate(known, **options).tokens == want
    assert 10 in want[0][:2]


def with_marks(folder: Path, *texts: str, template: str = "") -> Path:
    """Write a random checkpoint whose tokenizer has these as tokens from 4 on."""
    random_checkpoint(folder, text=True)
    data = json.loads((folder / "tokenizer.json").read_text())
    names = {number: text for text, number in data["model"]["vocab"].items()}
    for number, text in enumerate(texts, 4):
        del data["model"]["vocab"][names[number]]
        data["model"]["vocab"][text] = number
        data["added_tokens"].append(
            {"id": number, "content": text, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}
        )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "chat_template.jinja").write_text(template)
    return folder


RELEASED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{{ '<think>\n' if enable_thinking is defined and enable_thinking else '<think></think>' }}"
)


@pytest.mark.parametrize("name", ["ar", "linear_ss", "block_diffusion"])
def test_a_template_that_has_ended_thinking_leaves_nothing_to_end(
    tmp_path: Path, name: str
) -> None:
    artifact = api.load(api.compile(name, tmp_path / "artifact", certify=False))
    folder = with_marks(tmp_path / "model", "<think>", "</think>", template=RELEASED)
    decoder = artifact.from_checkpoint(folder, dtype="float64", device="cpu", backend="torch")
    options: dict[str, Any] = {"chat": True, "max_new_tokens": 24, "eos": ()}
    plain = decoder.generate("hi", **options).tokens[0]
    assert decoder.generate("hi", max_thinking_tokens=6, **options).tokens[0] == plain
    options["template_variables"] = {"enable_thinking": True}
    thought = decoder.generate("hi", max_thinking_tokens=6, **options).tokens[0]
    assert decoder.end_think_token_id == 5
    assert 5 in thought[:6]  # the line break of the template is the thought's first token


def test_the_marks_are_those_of_the_checkpoint_unless_others_are_given(tmp_path: Path) -> None:
    brackets = Tokenizer.load(with_marks(tmp_path / "a", "[THINK]", "[/THINK]"))
    both = Tokenizer.load(with_marks(tmp_path / "b", "<think>", "</think>", "<r>", "</r>"))
    assert thinking_marks(None, brackets) == (4, 5)
    assert thinking_marks(None, both) == (4, 5)
    assert thinking_marks(7, both) == (None, 7)
    assert thinking_marks(5, both) == (4, 5)
    assert thinking_marks(7, both, end=5) == (4, 5)
    assert thinking_marks(None, both, start=6, end=7) == (6, 7)
    assert thinking_marks(None, None, end=3) == (None, 3)
    settings = {"start_think_token": "<r>", "end_think_token": "</r>"}
    named = Tokenizer(both.inner, settings, tmp_path)
    assert thinking_marks(None, named) == (6, 7)


def test_the_mask_token_cannot_end_thinking(load: Any) -> None:
    ar = load("ar")
    with pytest.raises(PromptError, match="is the mask token"):
        ar.generate([[3]], max_thinking_tokens=3, end_think_token_id=ar.config.mask_token_id)


def test_certify_finds_a_budget_that_forgets_the_rows_of_its_own_forward(tmp_path: Path) -> None:
    """A rule that asks the cached text only is AR's rule in AR, and not in a block of drafts."""
    artifact = api.compile("linear_ss", tmp_path / "linear_ss", {"block_length": 4}, certify=False)
    assert certify(artifact, tokens=12).difference is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nldc.runtime.step.thinking.seen_before", blind)
        report = certify(artifact, tokens=12)
    assert report.difference is not None
    assert report.difference.startswith("token 6 at position")


def blind(plan: Plan, _rows: slice, first: int) -> torch.Tensor:
    return torch.zeros((plan.layout.size, plan.layout.size - first), dtype=torch.bool)


def test_the_command_line_takes_a_budget(tmp_path: Path) -> None:
    artifact = api.compile("linear_ss", tmp_path / "linear_ss", {"block_length": 4}, certify=False)
    options = ["--model", str(CHECKPOINT), "--ids", "5,7", "--max-new-tokens", "8", "--quiet"]
    budget = ["--max-thinking-tokens", "3", "--end-think-token-id", "9"]
    found = CliRunner().invoke(cli, ["run", str(artifact), *options, *budget])
    assert found.exit_code == 0, found.stderr
    assert "9" in found.stdout.strip().split(",")[:4]
    refused = CliRunner().invoke(cli, ["run", str(artifact), *options, *budget[:2]])
    assert refused.exit_code == 1
    assert "give --end-think-token-id" in refused.stderr
