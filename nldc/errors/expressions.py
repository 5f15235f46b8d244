"""NLD030 to NLD049: expressions, names, and how nodes depend on each other."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD030",
        "an expression that cannot be read",
        "Expressions have numbers, names, `+ - * // %`, comparisons, `and or not`, parentheses "
        "and choices of rows such as `draft[1:]`. There are no calls, loops or strings. An "
        "operand of the wrong kind (a condition where a number is needed) is reported here as "
        "well.",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length / 2}]}",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length // 2}]}",
    ),
    Entry(
        "NLD031",
        "an unknown name",
        "Nothing of that name can be seen from here. Nodes see the nodes of their own region; a "
        "step sees what is carried, and not the prefill's nodes; a `repeat` body sees the step "
        "as well. Sizes see params. Predicates see the facts of rows.",
        "  choice:  {op: sample, logits: cheked}",
        "  choice:  {op: sample, logits: checked}",
    ),
    Entry(
        "NLD032",
        "nodes that need each other",
        "Each of these nodes needs the next one's result, and the last needs the first's, so "
        "none can run. What a step needs from the step before is carried.",
        "  block:   {op: rows, segments: [{tokens: kept.bonus}, {masks: block_length - 1}]}",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: block_length - 1}]}",
    ),
    Entry(
        "NLD033",
        "a node that nothing uses (a warning)",
        "No path leads from this node to what the step emits, keeps or carries. It costs time "
        "and changes nothing; most often another node was meant to refer to it.",
        "  second:  {op: sample, logits: drafted_again}",
        "  choice:  {op: sample, logits: checked}",
    ),
    Entry(
        "NLD035",
        "rows that cannot be chosen",
        "A choice of rows (`node[…]`) is a place, a range, or a predicate over rows, and it "
        "must pick the same number of rows whatever the step's counts turn out to be, because "
        "sizes are known when a strategy is compiled. `sample` with `pad_to` makes it the same.",
        '  choice:  {op: sample, logits: "checked[block_length]"}',
        '  choice:  {op: sample, logits: "checked[0:block_length]"}',
    ),
    Entry(
        "NLD036",
        "a real number where rows are counted",
        "Which rows a row sees, where it lies, which rows are chosen, kept or adapted, and how "
        "many of the surest are taken, is decided when the strategy is compiled, again on the "
        "host, and again in a kernel. Whole numbers have the same value everywhere; a sum such as "
        "`row * 0.1` is rounded differently in each, so that `row * 0.1 > 0.3` holds for row 3 in "
        "one and not in another. Real numbers may be compared with scores, and with `live` in "
        "`route`.",
        "  take:    {op: select, among: block.filled, score: sure, where: row * 0.1 > 0.3}",
        "  take:    {op: select, among: block.filled, score: sure, where: row > 3}",
    ),
    Entry(
        "NLD037",
        "a number that may be too large",
        "What is asked of rows while a step runs is asked in a kernel, which computes in 32 bits "
        "and goes on with another number where those do not suffice. So nothing may come to more "
        "than 2**31 - 1 in a context of up to 2**24 tokens, and no divisor to more than 2**30.",
        '  seen: {op: forward, tokens: block, attention: "1000 * k.position < 9", cache: read}',
        '  seen: {op: forward, tokens: block, attention: "100 * k.position < 9", cache: read}',
    ),
    Entry(
        "NLD039",
        "a param of requests in what is compiled in",
        "A param with `runtime: true` comes with each request, and one artifact serves all its "
        "values. Sizes, layouts, positions, who sees whom, choices of rows, the rounds of a loop "
        "and routes are fixed when a strategy is compiled, and a batch shares them. So such a "
        "param stands in rules of `select`, in `confidence`, in `weights` and in `temperature`; "
        "where anything else depends on it, leave `runtime: true` out: it is then compiled in.",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: most}]}",
        "  block:   {op: rows, segments: [{tokens: seed}, {masks: length}]}",
    ),
)
