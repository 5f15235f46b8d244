"""NLD070 to NLD089: what a step emits, keeps in the cache, and carries."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD070",
        "a step that emits nothing",
        "A step ends with `emit`: the tokens it hands out, the cache rows it keeps, and what "
        "the next step begins with. It emits one token or more, whatever the model says, or "
        "decoding might never end.",
        "  choice:  {op: sample, logits: context}",
        "  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}",
    ),
    Entry(
        "NLD071",
        "a cache effect that cannot be",
        "`cache: keep all` keeps every row that the step's forwards appended, `cache: keep "
        "COUNT` the first of them, where COUNT comes from `accept`, and `cache: keep PATH` those "
        "of the branch that an `accept` took, as many as agree. No more can be kept than was "
        "appended, and a path only of rows that one forward computes, the accept's draft, and "
        "appends: nothing else of the step appends any.",
        "  emit:    {tokens: kept.tokens, cache: kept.rows, next: {seed: kept.bonus}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD072",
        "a carried value without a next value",
        "What is carried has a value at the start (`carry`) and a new one at the end of every "
        "step (`emit: {next: …}`). This one has no new value.",
        "  emit:    {tokens: choice, cache: keep all}",
        "  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}",
    ),
    Entry(
        "NLD073",
        "a next value of nothing carried",
        "`next` gives new values to what `carry` declares. This name is not declared there, so "
        "the first step would have no value for it.",
        "  emit:    {tokens: choice, cache: keep all, next: {seed: choice, last: choice}}",
        "  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}",
    ),
    Entry(
        "NLD074",
        "a carried value that changes its type",
        "A carried value has one type and one size for the whole run. Choose a row (`.last`, "
        "`[0:1]`) or another value.",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: choice}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD075",
        "a loop that appends to the cache",
        "How often a `repeat` runs differs from one sequence to another, so a forward inside it "
        "cannot append: what a step leaves in the cache would not be known. Read in the loop, "
        "and append with one forward after it.",
        "      seen: {op: forward, tokens: block, attention: bidirectional, cache: append}",
        "      seen: {op: forward, tokens: block, attention: bidirectional, cache: read}",
    ),
    Entry(
        "NLD076",
        "a route that leads nowhere",
        "With several `steps`, `route` gives the condition under which each but the last is taken; "
        "the first that holds decides, and the last step is taken whenever none does. Conditions "
        "are over params, `live`, the number of sequences in the batch, and carried Counts, "
        "by which each sequence takes a step of its own.",
        "route: {singel: live > 4}",
        "route: {single: live > 4}",
    ),
    Entry(
        "NLD077",
        "a loop whose keys cannot be kept",
        "With `keys: kept` the last forward of the loop leaves its rows in the cache. It must be "
        "clear which forward that is, that it ran, and that its rows follow one another: one "
        "forward in the body, over all the loop's rows in their order, and `at_least: 1`.",
        "    keys: kept",
        "    keys: kept\n    at_least: 1",
    ),
    Entry(
        "NLD078",
        "a forward that chooses emitted tokens is not counted (a warning)",
        "NFE counts forwards, and TPF is tokens a forward. `counted: false` leaves a forward out, "
        "as research loops do with the prompt's; where a step emits what it samples from that very "
        "forward, both figures leave out the work that was done for the tokens.",
        "  checked: {op: forward, tokens: guess, attention: causal, cache: append, counted: false}",
        "  checked: {op: forward, tokens: guess, attention: causal, cache: append}",
    ),
    Entry(
        "NLD084",
        "a carried Count whose bounds are not known",
        "A carried Count is held within bounds, for which the steps are proved. They may be left "
        "out where they follow from what the steps make of it, as from `kept.rows`. What a step "
        "makes larger than it was grows without end: say what is the most.",
        "carry: {seed: prefill.seed, lately: 4}",
        "carry: {seed: prefill.seed, lately: {start: 4, min: 2, max: 4}}",
    ),
    Entry(
        "NLD085",
        "rows that a Count cuts off where they cannot be",
        "Of `drafted[:n]`, each sequence has as many rows as its Count says. They are laid out "
        "for the most, and those behind the Count are not there: a forward over them is causal, or "
        "sees no row that may be cut off; it appends all or none, stands in a step and in no "
        "loop, and no forward runs behind one that appended them.",
        '  checked: {op: forward, tokens: "drafted[:lately]", attention: bidirectional, '
        "predicts: next, cache: append}",
        '  checked: {op: forward, tokens: "drafted[:lately]", attention: causal, cache: append}',
    ),
)
