"""What a new strategy begins as: the text below, or another strategy with its ops explained."""

from __future__ import annotations

import re

from nldc import api, reuse
from nldc.editor_texts import MODELS
from nldc.runtime.errors import NldcRuntimeError
from nldc.schema import OPS
from nldc.source import Source, parse

SCHEMA = "nldc.schema.json"
"""What the schema is called beside a strategy."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
_REGIONS = ("prefill", "step", "steps")

STARTER = """\
nldc: 1                      # version of the language, docs/language.md
name: linear_ss
summary: A bidirectional forward drafts a block; a causal forward keeps the longest agreeing prefix.
guarantee: exact             # the same tokens as AR, which `nldc check` has to prove; or none
params:                      # numbers that are compiled in: `nldc compile … --set block_length=8`
  block_length: {type: int, default: 16, min: 2, max: 64, help: rows drafted and verified a step}

prefill:                     # runs once, on the prompt
  # The prompt goes through the model causally; its keys and values stay in the cache.
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  # The model's choice behind the prompt's last token is the first new one.
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}  # what each step gets of the one before: a token that is not yet cached

step:                        # runs until every sequence is done
  # The rows of the step: the last token, and masks for those that follow it.
  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length - 1}]}
  # The draft: one forward in which all rows see each other fills all masks (confidence 0.0 takes
  # every row at once; 0.5 would take the sure ones, and run again for the others).
  drafted: {op: denoise, rows: block, attention: bidirectional, commit: {confidence: 0.0}}
  # The check: the drafted tokens go through the model causally, as AR would compute them.
  checked: {op: forward, tokens: drafted, attention: causal, cache: append}
  # What AR chooses behind each drafted token.
  choice:  {op: sample, logits: checked}
  # Drafted tokens are kept as long as they are AR's choices; AR's next choice is the bonus.
  kept:    {op: accept, draft: drafted, target: choice, rule: longest_prefix}
  # The text grows by what was kept, the cache keeps as many rows; the bonus begins the next step.
  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}
"""
"""Linear self-speculation, exact."""


def check_name(name: str) -> None:
    """Check that a strategy may be called so.

    Raises:
        NldcRuntimeError: it may not.
    """
    if not _NAME.fullmatch(name):
        usable = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:64].strip("_")
        hint = "a name is a letter, then letters, digits and _, at most 64"
        if _NAME.fullmatch(usable):
            hint = f"{hint}: {usable}"
        raise NldcRuntimeError(f"{name!r} is no name of a strategy", hint)


def starter(name: str, other: str | None = None, *, has_schema: bool = False) -> str:
    """Return the text of a strategy called `name` that is like another one, or like `STARTER`.

    With `has_schema` its first line tells editors of the schema that lies beside it.

    Raises:
        NldcRuntimeError: `name` cannot be one, or `other` has a preset.
        StrategyError: there is no strategy `other`, or it has mistakes.
    """
    check_name(name)
    begun = parse(STARTER) if other is None else _other(other)
    text = begun.text if other is None else _explained(begun)
    text = _renamed(text, name)
    api.check_source(parse(text, f"{name}.yaml"), others=False)
    head = f"# yaml-language-server: $schema=./{SCHEMA}\n" if has_schema else ""
    return head + text


def _other(file: str) -> Source:
    """Return the source of a strategy, as one file that names no other."""
    path, preset = api.split_preset(file)
    if preset is not None:
        raise NldcRuntimeError(
            f"{file} has a preset, and a file holds none of its name",
            f"leave @{preset} out, and write compat: {preset} into the new file",
        )
    checked = api.check(path, others=False)
    if not checked.source.uses:
        return reuse.load(api.find(path))
    return parse(reuse.flat(checked.source))


def _explained(source: Source) -> str:
    """Return the text with what an op does above the first node that has it."""
    lines = source.text.split("\n")
    said: dict[str, int] = {}
    for path in source.spans:
        if path and path[0] in _REGIONS and path[-1] == "op":
            op = str(source.at(path))
            line = source.span(path[:-1], key=True).start_line
            said[op] = min(line, said.get(op, line))
    for op, line in sorted(said.items(), key=lambda item: -item[1]):
        indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
        lines.insert(line - 1, f"{indent}# {op}: {MODELS[OPS[op].__name__].text}")
    return "\n".join(lines)


def _renamed(text: str, name: str) -> str:
    start, end = parse(text).spans["name",].value
    return f"{text[:start]}{name}{text[end:]}"
