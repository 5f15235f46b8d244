"""Random steps whose loop ends when nothing changes: Jacobi's inner fixed point, and near misses."""
# ruff: noqa: E501  (templates of YAML lines, which do not wrap)

from __future__ import annotations

from collections.abc import Sequence

from tests.lossless.picks import Pick


def fixed_point(pick: Pick, causal: Sequence[str], adapter: Sequence[str], late: bool) -> str:
    """Return the nodes of a step that make `fixed`, rows that begin with the seed, and what follows.

    `late`: the seed is emitted in the step. `causal` and `adapter` are ways to write a verifier.
    """
    size = int(pick(("3", "4", "2", "5")))
    rounds = pick((str(size - 1), str(size), str(size - 2 or 1), str(size + 2), "1"))
    guess = pick((f"found: {{op: lookup, length: {size - 1}, ngram: 2}}", "begun"))
    first = "found"
    begin = f"  {guess}\n"
    if guess == "begun":
        begin = f"""  blank: {{op: rows, segments: [{{tokens: seed}}, {{masks: {size - 1}}}]}}
  seen_first: {{op: forward, tokens: blank, attention: bidirectional, cache: {pick(("read", "read", "append"))}}}
  said: {{op: sample, logits: seen_first}}
"""
        first = '"said[1:]"'
    shifted = pick((f'"choice[:{size - 1}]"', f'"choice[:{size - 1}]"', '"choice[1:]"', "again"))
    again = ""
    if shifted == "again":
        again = f"""      twice: {{op: forward, tokens: {pick(("middle", "block"))}, attention: {pick(causal)}, cache: read}}
      more: {{op: sample, logits: twice}}
"""
        again = (
            f'      middle: {{op: rows, segments: [{{tokens: seed}}, {{tokens: "choice[:{size - 1}]"}}]}}\n'
            + again
        )
        shifted = f'"more[:{size - 1}]"'
    head = pick(("seed", "seed", "seed", "choice.first", "block.tokens.first"))
    mask = pick(("", "", "", ", mask_token: forbidden"))
    body = f"""  fixed:
    op: repeat
    on: block
    until: {pick(("unchanged", "unchanged", "full"))}
    at_most: {rounds}
    body:
      seen: {{op: forward, tokens: block, attention: {pick(causal)}, cache: read{pick(adapter)}}}
      choice: {{op: sample, logits: seen{mask}}}
{again}      block: {{op: rows, segments: [{{tokens: {head}}}, {{tokens: {shifted}}}]}}
"""
    stored = pick(("fixed", "fixed", "fixed.tokens", "block"))
    after = f"""  stored: {{op: forward, tokens: {stored}, attention: {pick(causal)}, cache: append}}
  late: {{op: sample, logits: stored}}
"""
    block = f"  block: {{op: rows, segments: [{{tokens: seed}}, {{tokens: {first}}}]}}\n"
    way = pick(("loop", "loop", "accept"))
    if way == "loop":
        shown = "fixed.tokens" if late else '"late"'
        shown = pick((shown, shown, '"late"', "fixed.tokens"))
        emit = f'  emit: {{tokens: {shown}, cache: keep all, next: {{seed: "{pick(("late[-1:]", "late[-1:]", "late[:1]"))}"}}}}\n'
    else:
        tokens = "kept.drafted" if late else "kept.tokens"
        emit = f"""  kept: {{op: accept, draft: fixed, target: late, rule: longest_prefix}}
  emit: {{tokens: {pick((tokens, tokens, "kept.tokens"))}, cache: {pick(("keep kept.rows", "keep kept.rows", "keep all"))}, next: {{seed: kept.bonus}}}}
"""
    return begin + block + body + after + emit
