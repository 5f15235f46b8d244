"""NLD010 to NLD029: the shape of the file."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD010",
        "an unknown key",
        "The part of the file has no such key. Nothing is ignored silently: a misspelt key "
        "would otherwise leave its default in place. `nldc schema` prints the JSON Schema, with "
        "which editors complete keys.",
        "  checked: {op: forward, tokens: drafted, attention: causal, cahce: append}",
        "  checked: {op: forward, tokens: drafted, attention: causal, cache: append}",
    ),
    Entry(
        "NLD011",
        "a required key is missing",
        "The key must be written even where one value is usual, because it is a decision that a "
        "reader of the strategy should see.",
        "  checked: {op: forward, tokens: drafted, attention: causal}",
        "  checked: {op: forward, tokens: drafted, attention: causal, cache: append}",
    ),
    Entry(
        "NLD012",
        "a value that does not fit its key",
        "The key takes another kind of value, or one of a few words. The label says which.",
        "  kept:    {op: accept, draft: drafted, target: choice, rule: longest}",
        "  kept:    {op: accept, draft: drafted, target: choice, rule: longest_prefix}",
    ),
    Entry(
        "NLD013",
        "an unknown op",
        "Every node is one of a few ops; the help text lists them. No op is named after a "
        "strategy: strategies are built from ops, in files.",
        "  choice:  {op: sampel, logits: checked}",
        "  choice:  {op: sample, logits: checked}",
    ),
    Entry(
        "NLD014",
        "a param that is declared wrongly",
        "A param has a type, `int` or `float`, and a default that lies between its `min` and "
        "`max`, which are finite. `--set name=value` may then choose any value between them. One "
        "of the type `profile` has a default alone, lists of numbers of steps, which "
        "`--acceptance FILE` replaces.",
        "  block_length: {type: int, default: 128, min: 2, max: 64}",
        "  block_length: {type: int, default: 16, min: 2, max: 64}",
    ),
    Entry(
        "NLD015",
        "another version of the language",
        "`nldc: 1` says which version of the language the file is written in. This compiler "
        "reads version 1 and refuses to guess at another.",
        "nldc: 2",
        "nldc: 1",
    ),
    Entry(
        "NLD016",
        "a setting that the strategy does not allow",
        "`--set name=value` names a param of the strategy and a value between its bounds.",
        "nldc check strategies/linear_ss.yaml --set block_length=1000",
        "nldc check strategies/linear_ss.yaml --set block_length=32",
    ),
    Entry(
        "NLD017",
        "a segment that is neither tokens nor masks",
        "A segment of `rows` is a run of rows with known tokens (`tokens`) or a number of "
        "masked rows (`masks`): one of the two, and not both. Masks that a profile deals out "
        "(`masks: {at_most: …, profile: …}`) need `groups` to be dealt to.",
        "  block:   {op: rows, segments: [{tokens: seed, masks: block_length - 1}]}",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length - 1}]}",
    ),
    Entry(
        "NLD018",
        "a name that cannot be used",
        "Names begin with a letter and have letters, digits and `_`, of ASCII, at most 64 in all. "
        "Some mean something already: `prefill`, `step`, `carry`, `emit`, `q`, `k`, `kind`, "
        "`group`, `index` and `row` cannot name a node or a carried value; `kind`, `group`, "
        "`index`, `row`, `masked`, `rank`, `score`, `iteration`, `left` and `live` no param; "
        "facts of a row (`position` and `prefix` among them), `first`, `last`, `tokens` and "
        "`filled` no kind of rows; `and`, `or`, `not`, `true` and `false` nothing at all. A param "
        "and a kind cannot share a name, nor a node and a carried value: an expression that has "
        "it could mean either.",
        "  group:   {op: sample, logits: checked}",
        "  choice:  {op: sample, logits: checked}",
    ),
)
