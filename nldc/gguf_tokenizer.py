"""The tokenizer of a GGUF file as the files of a checkpoint: tokenizer.json and its settings.

GGUF names a byte-level BPE's way of cutting text into words (`tokenizer.ggml.pre`) instead of
spelling it out; `FAMILIES` spells out those that Llama models use. Anything else is an error, for a
wrong cut still encodes, only differently from how the model was trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nldc.runtime.errors import CheckpointError, TokenizerError

if TYPE_CHECKING:
    import tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5

FAMILIES = {
    "smollm": "digits",
    "starcoder": "digits",
    "refact": "digits",
    "codeshell": "digits",
    "gpt-2": "gpt2",
    "olmo": "gpt2",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
}
"""How each `tokenizer.ggml.pre` cuts text: `digits` is `gpt2` after splitting off every digit."""

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
    *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>"),
)
"""Tokens at which llama.cpp ends a text, by what they are called."""
FILL_IN = {
    "pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "sep": ("<|file_sep|>",),
}
"""Tokens of filling in code that end a text too, if no other serves for the same."""
NO_END = (
    ("<|end|>", (("<|return|>", "<|call|>"), ("<|return|>", "<|calls|>"))),
    ("<|end|>", (("<|call|>", "<|flush|>"), ("<|calls|>", "<|flush|>"))),
    ("</s>", (("<|tool_response>",),)),
)
"""Tokens that end no text where all of some others exist."""
MASKS = ("<mask>", "[MASK]", "<|mask|>", "<|mask_token|>", "<|mdm_mask|>")
LONGEST_NAME = 100
"""Characters of a special token's name; the pattern takes quadratic time on more."""
RESERVED = re.compile(r"<\W*(reserved|unused|special|extra)_?.*\d+\W*>", re.IGNORECASE)


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokens. `kinds` are GGUF's token types, one a token.

    `eos` are the ends that it names, `ends` all at which llama.cpp ends a text.
    """

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    family: str
    bos: int | None
    eos: tuple[int, ...]
    ends: tuple[int, ...]
    unknown: int | None
    padding: int | None
    add_bos: bool
    chat_template: str | None

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Vocabulary:
        """Read the `tokenizer.*` fields of a GGUF file.

        Raises:
            CheckpointError: no byte-level BPE, a way of cutting text that is not known, or fields
                that contradict one another.
        """
        model = fields.get("tokenizer.ggml.model")
        if model != "gpt2":
            raise CheckpointError(
                f"the tokenizer is of the kind `{model}`, not a byte-level BPE (`gpt2`)",
                "import a model with a byte-level BPE tokenizer, such as SmolLM2",
            )
        pre = fields.get("tokenizer.ggml.pre", "default")
        if not isinstance(pre, str) or pre not in FAMILIES:
            raise CheckpointError(
                f"the tokenizer cuts text in the way `{pre}`, which is not known",
                "known are " + ", ".join(FAMILIES),
            )
        tokens = _texts(fields, "tokenizer.ggml.tokens")
        kinds = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
        if not isinstance(kinds, list) or not all(type(kind) is int for kind in kinds):
            raise CheckpointError(
                "the field tokenizer.ggml.token_type is no list of numbers",
                "the file is damaged; download it again",
            )
        if len(kinds) != len(tokens):
            raise CheckpointError(
                f"there are {len(tokens)} tokens but {len(kinds)} token types",
                "the file is damaged; download it again",
            )
        if len(set(tokens)) != len(tokens):
            raise CheckpointError(
                "two tokens have the same text", "the file is damaged; download it again"
            )

        def token(name: str) -> int | None:
            value = fields.get(f"tokenizer.ggml.{name}_token_id")
            if value is None:
                return None
            if not isinstance(value, int) or not 0 <= value < len(tokens):
                raise CheckpointError(
                    f"{name}_token_id {value!r} is not one of the {len(tokens)} tokens",
                    "the file is damaged; download it again",
                )
            return value

        family = FAMILIES[pre]
        template = fields.get("tokenizer.chat_template")
        own = [token(name) for name in ("eos", "eot", "eom")]
        eos = tuple(dict.fromkeys(value for value in own if value is not None))
        fills = [token(f"fim_{name}") for name in FILL_IN]
        ends = ending_tokens(tokens, eos, fills)
        return Vocabulary(
            tokens=tokens,
            kinds=tuple(CONTROL if n in ends else kind for n, kind in enumerate(kinds)),
            merges=_texts(fields, "tokenizer.ggml.merges"),
            family=family,
            bos=token("bos"),
            eos=eos,
            ends=ends,
            unknown=token("unknown"),
            padding=token("padding"),
            add_bos=bool(fields.get("tokenizer.ggml.add_bos_token", family == "llama3")),
            chat_template=template if isinstance(template, str) else None,
        )


def ending_tokens(
    tokens: Sequence[str], eos: Sequence[int], fills: Sequence[int | None]
) -> tuple[int, ...]:
    """Return the ids at which llama.cpp ends a text: those that the file names first.

    It goes by the texts of tokens, whatever their type, because files name too few of them. `fills`
    are the ids that the file names for the tokens of `FILL_IN`.
    """
    number = {text: place for place, text in enumerate(tokens)}
    found = list(eos)
    for named, texts in zip(fills, FILL_IN.values(), strict=True):
        known = [named] if named is not None else [number[t] for t in texts if t in number][:1]
        found += known
    found += [number[text] for text in ENDS if text in number]
    for text, beside in NO_END:
        if any(all(other in number for other in others) for others in beside):
            found = [end for end in found if tokens[end] != text]
    return tuple(dict.fromkeys(found))


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise CheckpointError(
            f"the field {name} is missing", "convert the model again, with its vocabulary"
        )
    return tuple(value)


def choose_mask(vocabulary: Vocabulary, wanted: int | str | None = None) -> int:
    """Return the id that stands for a masked row.

    That is `wanted`, an id (digits are one, too) or a token's text. Without it, it is the first of
    these that exists: a token called mask, a token of the type unused, a token called reserved, and
    last the highest control token that neither ends, begins nor pads a text and that the chat
    template does not write.

    Raises:
        CheckpointError: `wanted` is no token, or no token can be spared.
    """
    tokens, kinds = vocabulary.tokens, vocabulary.kinds
    if isinstance(wanted, str) and wanted.isdecimal():
        wanted = int(wanted)
    if isinstance(wanted, str):
        if wanted not in tokens:
            raise CheckpointError(
                f"the mask token `{wanted}` is not in the vocabulary", "give a token or an id"
            )
        return tokens.index(wanted)
    if wanted is not None:
        if not 0 <= wanted < len(tokens):
            raise CheckpointError(
                f"the mask token {wanted} is not one of the {len(tokens)} tokens",
                f"give a token or an id between 0 and {len(tokens) - 1}",
            )
        return wanted
    for name in MASKS:
        if name in tokens:
            return tokens.index(name)
    taken = {vocabulary.bos, *vocabulary.ends, vocabulary.unknown, vocabulary.padding}
    template = vocabulary.chat_template or ""
    free = [
        number
        for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, UNUSED) and number not in taken and text not in template
    ]
    unused = [number for number in free if kinds[number] == UNUSED]
    reserved = [
        number
        for number in free
        if len(tokens[number]) <= LONGEST_NAME and RESERVED.fullmatch(tokens[number])
    ]
    for candidates in (unused, reserved, free[::-1]):
        if candidates:
            return candidates[0]
    raise CheckpointError(
        "no token of the vocabulary is free to serve as the mask",
        "choose one with the mask token option: a token that never occurs in text",
    )


def build_tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Return the tokenizer that encodes and decodes as the model's own does.

    Raises:
        TokenizerError: the merges do not fit the tokens.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
    )

    by_text = {text: number for number, text in enumerate(vocabulary.tokens)}
    try:
        bpe = models.BPE(
            vocab=by_text,
            merges=[_pair(merge) for merge in vocabulary.merges],
            ignore_merges=vocabulary.family == "llama3",
        )
    except Exception as problem:  # the library raises plain Exception
        raise TokenizerError(
            f"the merges do not fit the tokens: {problem}", "the file is damaged; download it again"
        ) from problem
    made = Tokenizer(bpe)
    if vocabulary.family == "llama3":
        words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated")
        cut = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        cut = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        if vocabulary.family == "digits":
            cut.insert(0, pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(cut)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    if vocabulary.add_bos and vocabulary.bos is not None:
        begin = vocabulary.tokens[vocabulary.bos]
        made.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary.bos)]
        )
    for kind, special in ((CONTROL, True), (UNKNOWN, True), (USER_DEFINED, False)):
        found = [
            AddedToken(text, special=special, normalized=False)
            for text, own in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
            if own == kind
        ]
        made.add_special_tokens(found) if special else made.add_tokens(found)
    return made


def _pair(merge: str) -> tuple[str, str]:
    left, gap, right = merge.partition(" ")
    if not gap or " " in right:
        raise TokenizerError(
            f"the merge `{merge}` is not two tokens", "the file is damaged; download it again"
        )
    return left, right


def settings(vocabulary: Vocabulary, mask: int, context: int) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    named: Sequence[tuple[str, int | None]] = (
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos[0] if vocabulary.eos else None),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
        ("mask_token", mask),
    )
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos,
        **{name: vocabulary.tokens[token] for name, token in named if token is not None},
    }
