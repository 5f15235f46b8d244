"""Random strategies that carry Counts, cut drafts by them, and route each sequence by its own."""
# ruff: noqa: E501  (templates of YAML lines, which do not wrap)

from __future__ import annotations

from tests.lossless.picks import Pick

KINDS = ("cut", "carried", "routed", "confident")


def counting(pick: Pick, prefill: str, causal: tuple[str, ...]) -> str:
    """Return the prefill and the steps of one; `prefill` carries the seed, `causal` are patterns."""
    kind = pick.even(KINDS)
    size = int(pick(("4", "3", "5")))
    start = pick(("2", "1", "3"))
    bounds = pick(
        (f", min: 1, max: {size}", f", min: 2, max: {size}", ", min: 1", ", min: 0, max: 3")
    )
    short = (
        pick((start, f"{{start: {start}{bounds}}}"))
        if kind == "routed"
        else f"{{start: {start}{bounds}}}"
    )
    carry = prefill.replace(
        "carry: {seed: prefill.seed}", f"carry: {{seed: prefill.seed, lately: {short}}}"
    )
    if kind == "routed":
        one = _step(pick, causal, "kept", 2, "", "").replace("\n", "\n  ").rstrip()
        other = _step(pick, causal, "kept", size, "", "").replace("\n", "\n  ").rstrip()
        when = pick(
            ("lately < 2", "lately == 1 or live > 2", "lately % 2 == 0", "live - lately < 0")
        )
        return f"{carry}route: {{one: {when}}}\nsteps:\n  one:\n  {one}\n  other:\n  {other}\n"
    if kind == "confident":
        low = pick(("1", "1", "0", "2"))
        count = f'  n: {{op: leading, scores: "sure[1:]", at_least: {pick(("0.2", "0.0", "0.6"))}, min: {low}}}\n'
        return prefill + "step:\n" + _step(pick, causal, "n", size, count, "n + 1")
    by = pick(("lately", "lately", "lately + 1", "lately // 2 + 1", "3 - lately"))
    return carry + "step:\n" + _step(pick, causal, "lately", size, "", by)


def _step(pick: Pick, causal: tuple[str, ...], count: str, size: int, made: str, by: str) -> str:
    """Return a step that drafts `size` rows and verifies those before `by`, if that is not empty."""
    cut = f'"drafted[:{by}]"' if by else "drafted"
    other = pick((cut, cut, "drafted", '"drafted[:2]"', '"drafted[1:]"'))
    target = pick(("choice", "choice", "guess"))
    after = pick(
        ("", "", "", f"  again: {{op: forward, tokens: {cut}, attention: causal, cache: append}}\n")
    )
    keep = pick(
        (
            "keep kept.rows",
            "keep kept.rows",
            "keep all",
            "keep kept.matches",
            f"keep {count}" if by == count else "keep kept.rows",
        )
    )
    tokens = pick(("kept.tokens", "kept.tokens", "choice", "kept.drafted"))
    becomes = pick(
        (
            "kept.rows",
            "(3 * lately + kept.rows) // 4",
            "lately + 1",
            "kept.matches * 2 - lately % 2",
            "2",
        )
    )
    following = f", lately: {becomes if count != 'n' else 'kept.rows'}" if count != "n" else ""
    return f"""  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: {size - 1}}}]}}
  seen: {{op: forward, tokens: block, attention: bidirectional, cache: read}}
  guess: {{op: sample, logits: seen}}
  sure: {{op: score, logits: seen, tokens: guess, by: probability}}
{made}  drafted: {{op: join, parts: [seed, "guess[1:]"]}}
  checked: {{op: forward, tokens: {cut}, attention: {pick(causal)}, cache: {pick(("append", "append", "append", "read", '{append: "row < 2"}'))}}}
  choice: {{op: sample, logits: checked}}
  kept: {{op: accept, draft: {other}, target: {target}, rule: longest_prefix}}
{after}  emit: {{tokens: {tokens}, cache: {keep}, next: {{seed: {pick(("kept.bonus", "kept.bonus", "seed"))}{following}}}}}
"""
