"""NLD050 to NLD069: types and sizes."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD050",
        "a value of the wrong type",
        "Each key of an op takes values of certain types: `sample` takes Logits and makes "
        "Tokens, `score` makes Scores, `select` makes a RowMask, `accept` makes a value with "
        "the fields `tokens`, `drafted`, `rows`, `matches` and `bonus`, and of several branches "
        "`branch` and `path`. Rows stand for their "
        "tokens. Tokens whose number differs by sequence, as those of an `accept`, are taken by "
        "`emit`, `forward`, `sample` and `accept` alone.",
        "  kept:    {op: accept, draft: drafted, target: checked, rule: longest_prefix}",
        "  kept:    {op: accept, draft: drafted, target: choice, rule: longest_prefix}",
    ),
    Entry(
        "NLD051",
        "sizes that do not match",
        "Two operands have different numbers of rows. Both are shown with their types.",
        "  kept:    {op: accept, draft: drafted, target: seed, rule: longest_prefix}",
        "  kept:    {op: accept, draft: drafted, target: choice, rule: longest_prefix}",
    ),
    Entry(
        "NLD052",
        "a size that cannot be",
        "The size, for the params in use, is not a whole number within bounds. A strategy is "
        "checked for its defaults and for what `--set` changes.",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length - 20}]}",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length - 1}]}",
    ),
    Entry(
        "NLD053",
        "rows without a position, or where no rows lie",
        "`position` is a row's distance from the end of the prefix: 0 or more, and less than the "
        "8192 rows that a step may have. Rows in one group follow each other by default; with "
        "several groups only the strategy can tell which rows stand beside each other, as in "
        "`position: group + index`. Over the prompt's rows, of which there are any number, "
        "positions rise by no more than one a row, and are made of sums, `//` and `%`.",
        '    position: "index - 1"',
        "    position: index",
    ),
    Entry(
        "NLD054",
        "a rule that does not go with its score",
        "`probability` is of given tokens; `margin` and `entropy` are of the logits alone. More "
        "probability or margin is surer, less entropy is surer, so `at_least` goes with the "
        "former and `at_most` with the latter. `always` is `best N`. A `temperature` is 0, which "
        "is greedy, or more, whatever a request brings of its params.",
        "      sure: {op: score, logits: seen, by: probability}",
        "      sure: {op: score, logits: seen, tokens: pick, by: probability}",
    ),
    Entry(
        "NLD055",
        "an attribute that has nothing to act on",
        "Attributes say what published engines do differently at equal settings: whether a block's "
        "seed is masked, what becomes of rows that are still masked after the last round. This one "
        "asks for something that the rows or the loop's body do not have.",
        "  block: {op: rows, segments: [{masks: block_length}], seed: masked}",
        "  block: {op: rows, segments: [{tokens: seed}, {masks: block_length - 1}], seed: masked}",
    ),
    Entry(
        "NLD056",
        "logits of different positions are mixed",
        "A mix adds up logits row by row, and its rows predict what those of the first part "
        "predict. A causal row predicts the next token, a bidirectional row its own: mixed as "
        "they are, they would be votes on different tokens. A part of weight 0 is no part.",
        '  mixed:   {op: mix, logits: ["checked[:-1]", "seen[:-1]"], weights: [0.5, 0.5]}',
        '  mixed:   {op: mix, logits: ["checked[:-1]", "seen[1:]"], weights: [0.5, 0.5]}',
    ),
    Entry(
        "NLD057",
        "branches that cannot be held against each other",
        "`rule: longest_branch` seeks the longest run in each of `branches` chains of rows: of "
        "`branch`, which counts from 0, it is the rows for which `of` holds, in their order. All "
        "have one length, and begin with a row that is not compared: the choice in a row is held "
        "against the token in the branch's next row. `longest_prefix` has one chain, all rows.",
        "  kept:   {op: accept, draft: tree, target: choice, rule: longest_branch, "
        "branches: 2, of: group <= branch}",
        "  kept:   {op: accept, draft: tree, target: choice, rule: longest_branch, "
        "branches: 2, of: group == branch}",
    ),
)
