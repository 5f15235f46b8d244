"""What random loops do to mask rows again, and to take rows at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.lossless.picks import Pick

CONDITIONS = (
    "rank > iteration", "rank >= left // 2", "row > 0", "row > 1 and rank > 0", "score < 0.5",
    "iteration < 1", "iteration == 0 and rank > 0", "rank == left - 1", "row == 0", "score < 0",
)  # fmt: skip


def masked_again(
    random: Random, names: Sequence[str], sure: str, before: str, rows: Sequence[str]
) -> list[str]:
    """Return the lines of a selection and of a mask by it, of those names; often by its own rows.

    `before` are the rows that were filled last, `rows` all that there are; `sure` scores them.
    """
    chosen, masked = names
    among = before if random.random() < 0.6 else random.choice(rows)
    kind = random.choice((".filled", ".filled", ".masked"))
    start = before if random.random() < 0.8 else random.choice(rows)
    rule = f'where: "{random.choice(CONDITIONS)}"'
    where = chosen if random.random() < 0.8 else f"{random.choice(rows)}{kind}"
    return [
        f"{chosen}: {{op: select, among: {among}{kind}, score: {sure}, {rule}}}",
        f"{masked}: {{op: mask, rows: {start}, where: {where}}}",
    ]


def remasked(pick: Pick, rows: str, body: str, indent: str = "      ") -> str:
    """Return a loop's body whose next rows may be masked again, and whose choices may be noise.

    `body` has a score `sure` of the logits `seen`, and ends in what the next `rows` are.
    """
    if pick(("", "", "", "luck")):
        score = next(line for line in body.splitlines(keepends=True) if " sure: " in line)
        body = body.replace(score, f"{indent}sure: {{op: noise, logits: seen}}\n")
    kind = pick(("", "", "", "again"))
    if not kind:
        return body
    head, _, last = body.rpartition(f"{indent}{rows}: ")
    among = pick((".filled", ".filled", ".masked"))
    where = pick(("worst", "worst", f"{rows}{among}", f"whole{among}"))
    of = pick(("whole", "whole", rows))
    return (
        f"{head}{indent}whole: {last}"
        f"{indent}worst: {{op: select, among: {of}{among}, score: sure, "
        f'where: "{pick(CONDITIONS)}"}}\n'
        f"{indent}{rows}: {{op: mask, rows: {pick(('whole', 'whole', rows))}, where: {where}}}\n"
    )
