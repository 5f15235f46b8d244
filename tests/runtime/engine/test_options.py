"""One place says what the options are; they may be given by name, for all prompts, or for each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from by_itself import lone

from nldc.cli.options import sampling
from nldc.runtime import Decoder, GenerateOptions, PromptError
from nldc.runtime.engine.options import RequestOptions


def test_every_option_is_a_keyword_and_every_keyword_an_option() -> None:
    named = {field.name for field in fields(GenerateOptions)}
    assert named - set(RequestOptions.__annotations__) == {
        "sequence_id"
    }  # `sequence_ids`, in calls
    assert set(RequestOptions.__annotations__) <= named


def test_the_command_line_s_sampling_options_are_these_options() -> None:
    @sampling
    def command(**_: Any) -> None:
        """Do nothing."""

    named = {option.name for option in command.__click_params__}  # type: ignore[attr-defined]
    named = {"params" if name == "brought" else name for name in named}
    assert {"max_new_tokens", "temperature", "seed", "eos"} < named
    assert named <= {field.name for field in fields(GenerateOptions)}


def test_options_are_those_of_the_keywords(decoder: Decoder) -> None:
    given: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0, "seed": 4, "eos": ()}
    options = GenerateOptions(**given)
    want = decoder.generate([[3], [4]], **given)
    assert decoder.generate([[3], [4]], options=options).tokens == want.tokens
    assert "".join(decoder.stream([3], options=options)) == want.text[0]


def test_each_prompt_may_have_options_of_its_own(decoder: Decoder) -> None:
    each: list[dict[str, Any]] = [
        {"max_new_tokens": 5, "strategy": "linear_ss", "eos": ()},
        {"max_new_tokens": 11, "temperature": 1.0, "seed": 4, "stop": "e", "sequence_id": 7},
        {"max_new_tokens": 8, "temperature": 0.5, "eos": range(0, 260, 7), "sequence_id": 0},
    ]
    found = decoder.generate([[3], [4], [5]], options=[GenerateOptions(**one) for one in each])
    for place, (prompt, one) in enumerate(zip(([3], [4], [5]), each, strict=True)):
        keyed = dict(one)
        key = keyed.pop("sequence_id", place)
        want = lone(decoder, prompt, sequence_ids=[key], **keyed)
        assert (found.tokens[place], found.text[place], found.finish[place]) == want


def test_keywords_replace_fields_of_the_options(decoder: Decoder) -> None:
    options = GenerateOptions(max_new_tokens=50, temperature=1.0, seed=1, eos=())
    found = decoder.generate([[3], [4]], options=options, max_new_tokens=6)
    want = decoder.generate([[3], [4]], max_new_tokens=6, temperature=1.0, seed=1, eos=())
    assert found.tokens == want.tokens
    keyed = decoder.generate([[3]], options=options, max_new_tokens=6, sequence_ids=[1])
    other = decoder.generate(
        [[3]], max_new_tokens=6, temperature=1.0, seed=1, eos=(), sequence_ids=[1]
    )
    assert keyed.tokens == other.tokens


def test_options_that_are_used_twice_are_the_same_twice(decoder: Decoder) -> None:
    options = GenerateOptions(max_new_tokens=30, stop=(text for text in ("e", "a")), eos=iter((2,)))
    first = decoder.generate([[3], [4]], options=options)
    assert decoder.generate([[3], [4]], options=options).text == first.text
    assert (
        first.text == decoder.generate([[3], [4]], max_new_tokens=30, stop=["e", "a"], eos=2).text
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (5, "options 5 is not allowed"),
        ([], r"options \[\] is not allowed"),
        ("fast", "options 'fast' is not allowed"),
        ([GenerateOptions()], "1 options for 2 prompts"),
        ([GenerateOptions(), {"seed": 1}], "options .* is not allowed"),
        (GenerateOptions(priority=1.5), "priority 1.5 is not allowed"),  # type: ignore[arg-type]
        (GenerateOptions(sequence_id=2**63), "the sequence id .* is not allowed"),
        (GenerateOptions(temperature=-1), "temperature -1 is not allowed"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(
    decoder: Decoder, options: Any, said: str
) -> None:
    with pytest.raises(PromptError, match=said) as caught:
        decoder.generate([[3], [4]], options=options)
    assert caught.value.hint


def test_a_keyword_that_is_none_is_refused_by_every_call(decoder: Decoder) -> None:
    for call in (decoder.generate, decoder.stream, decoder.astream, decoder.request):
        with pytest.raises(
            TypeError, match=f"{call.__name__}.. got an unexpected keyword .*'heat'"
        ):
            call("a", heat=1.0)  # type: ignore[operator]
