"""Every way in which a strategy can fail to be AR, its code, and how it is mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Obligation = Literal["source", "visibility", "purity", "cache", "seed", "progress"]
OBLIGATIONS: tuple[Obligation, ...] = (
    "source", "visibility", "purity", "cache", "seed", "progress",
)  # fmt: skip

UNVERIFIED = "NLD101"
WRONG_PLACE = "NLD102"
SEES_MASK = "NLD103"
SEES_BRANCH = "NLD104"
SEES_LATER = "NLD105"
MISSES_ROW = "NLD106"
SEES_TWICE = "NLD107"
POSITION = "NLD108"
ADAPTED = "NLD109"
CHANGED = "NLD110"
PREDICTS_SELF = "NLD111"
KEEPS_REJECTED = "NLD112"
KEEPS_TOO_MANY = "NLD113"
KEEPS_TOO_FEW = "NLD114"
CACHE_ORDER = "NLD115"
SEED = "NLD116"
EMITS_NOTHING = "NLD117"
LOOP_ENDS_EARLY = "NLD118"
FRONTIER = "NLD119"
DISTRIBUTION = "NLD120"
UNDECIDED = "NLD121"
AROUND_SAMPLE = "NLD122"
READS_SPECULATIVE = "NLD123"


@dataclass(frozen=True)
class Kind:
    """What a code stands for: its obligation, its sentence, and what mends it."""

    obligation: Obligation
    message: str
    help: str


KINDS: Mapping[str, Kind] = {
    UNVERIFIED: Kind(
        "source",
        "a token that no verifier row chose is emitted",
        "emit what `accept` kept: `kept.tokens`, or `kept.drafted`",
    ),
    WRONG_PLACE: Kind(
        "source",
        "a token is emitted at another place than AR's",
        "emit the tokens that follow the last one emitted, in order and once each",
    ),
    SEES_MASK: Kind(
        "visibility",
        "a verifier row sees a mask row",
        "let it see only the prefix and the rows of accepted tokens before it: `k.row <= q.row`",
    ),
    SEES_BRANCH: Kind(
        "visibility",
        "a verifier row sees a row of another branch",
        "let it see one row at each earlier position: those that hold the tokens accepted there",
    ),
    SEES_LATER: Kind(
        "visibility",
        "a verifier row sees a later row",
        "let it see nothing behind itself: `attention: causal`, or add `k.position <= q.position`",
    ),
    MISSES_ROW: Kind(
        "visibility",
        "a verifier row does not see everything before it",
        "let it see the whole prefix (`k.prefix`), every accepted row before it, and itself",
    ),
    SEES_TWICE: Kind(
        "visibility",
        "a verifier row sees a token twice",
        "let it see one row for each earlier position, in the cache or in the forward, not both",
    ),
    POSITION: Kind(
        "visibility",
        "a verifier row lies at the wrong position",
        "its `position` is its distance from the end of the cache: that of the token it holds",
    ),
    ADAPTED: Kind(
        "purity",
        "an adapter is on where the verifier computes",
        "leave `adapter` out, or restrict it to the mask rows: adapter: {NAME: \"kind == mask\"}",
    ),
    CHANGED: Kind(
        "purity",
        "the verifier's logits are changed",
        "sample from the logits of a verifier row alone",
    ),
    PREDICTS_SELF: Kind(
        "purity",
        "a verifier row is read as predicting its own position",
        "a causal row predicts the next token: `predicts: next`",
    ),
    KEEPS_REJECTED: Kind(
        "cache",
        "the cache keeps a row whose token is not accepted",
        "keep as many rows as tokens were accepted: `cache: keep kept.rows`",
    ),
    KEEPS_TOO_MANY: Kind(
        "cache",
        "the cache keeps more rows than tokens are emitted",
        "keep one row for each emitted token: `cache: keep kept.rows`",
    ),
    KEEPS_TOO_FEW: Kind(
        "cache",
        "the cache keeps fewer rows than tokens are emitted",
        "keep one row for each emitted token: `cache: keep kept.rows`",
    ),
    CACHE_ORDER: Kind(
        "cache",
        "the cache keeps rows out of order",
        "append rows in the order of their positions, from the end of the prefix on",
    ),
    SEED: Kind(
        "seed",
        "what is carried is not AR's choice after the last emitted token",
        "carry the verifier's own choice: `kept.bonus`",
    ),
    EMITS_NOTHING: Kind(
        "progress",
        "a step may emit nothing",
        "emit at least the verifier's first choice: `kept.tokens`",
    ),
    LOOP_ENDS_EARLY: Kind(
        "progress",
        "a loop may end with masked rows left",
        "let every round fill at least one row: `always: best 1`, and `at_most` as many rounds",
    ),
    FRONTIER: Kind(
        "cache",
        "how far the cache trails the emitted text differs by outcome",
        "keep the same distance however many drafts are accepted",
    ),
    DISTRIBUTION: Kind(
        "source",
        "`guarantee: distribution` is not proved",
        "only equality with AR can be proved, which implies it: mend this, or promise `none`",
    ),
    UNDECIDED: Kind(
        "visibility",
        "whether the strategy is exact cannot be decided",
        "write it with less arithmetic, or promise `guarantee: none`",
    ),
    AROUND_SAMPLE: Kind(
        "source",
        "a token is emitted that no `sample` chose",
        "what is emitted has to come from `sample`, where EOS, budgets and processors apply",
    ),
    READS_SPECULATIVE: Kind(
        "cache",
        "a verifier row reads a speculative entry as if it were committed",
        "append only rows that are accepted whatever comes, or verify in one forward",
    ),
}  # fmt: skip
