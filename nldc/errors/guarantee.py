"""NLD100 and up: what a file promises and what can be proved of it."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD101",
        "a token is emitted that no verifier chose",
        "Every emitted token must be AR's choice: sampled from a causal row over accepted "
        "tokens alone, or accepted because it equals such a choice. A guess of a bidirectional "
        "forward is neither. A strategy that means to emit guesses promises `guarantee: none`.",
        "guarantee: exact",
        "guarantee: none",
    ),
    Entry(
        "NLD102",
        "a token is emitted in another place than AR's",
        "The tokens are AR's, but not where they are emitted: one is left out, repeated or out "
        "of order. A step emits what follows the last emitted token; whether the seed was "
        "already emitted is the strategy's own convention, but it must be the same in every "
        "step.",
        "  emit:    {tokens: kept.drafted, cache: keep kept.rows, next: {seed: kept.bonus}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD103",
        "a verifier row sees a mask row",
        "AR's forward has no mask rows. A row whose logits decide, or whose keys such a row "
        "sees, may see the prefix and the rows of accepted tokens before it.",
        '    attention: "k.prefix or (k.kind == draft and k.group <= q.group) or k.group == '
        'q.group"',
        '    attention: "k.prefix or (k.kind == draft and k.group <= q.group) or (q.kind == '
        'mask and k.group == q.group)"',
    ),
    Entry(
        "NLD104",
        "a verifier row sees a row of another branch",
        "Two rows at the same position hold different drafts. At most one of them will be "
        "accepted, so a row that sees both computes what AR never computes.",
        '    attention: "k.prefix or k.position <= q.position"',
        '    attention: "k.prefix or (k.kind == trunk and k.position <= q.position)"',
    ),
    Entry(
        "NLD105",
        "a verifier row sees a later row",
        "AR's choice at a position cannot depend on what comes after it. A verifying forward is "
        "causal.",
        "  checked: {op: forward, tokens: draft, attention: bidirectional, predicts: next, "
        "cache: append}",
        "  checked: {op: forward, tokens: draft, attention: causal, cache: append}",
    ),
    Entry(
        "NLD106",
        "a verifier row does not see everything before it",
        "AR's row sees the whole prefix, every token before it, and itself. A window, a missing "
        "prefix or a missing row gives other logits.",
        '  checked: {op: forward, tokens: draft, attention: "k.row <= q.row and k.position > '
        'q.position - 5", predicts: next, cache: append}',
        "  checked: {op: forward, tokens: draft, attention: causal, cache: append}",
    ),
    Entry(
        "NLD107",
        "a verifier row sees a token twice",
        "Two rows hold the same token at the same position, and both are seen. Attention would "
        "count it twice.",
        '    attention: "k.prefix or k.position <= q.position"',
        '    attention: "k.prefix or (k.kind == trunk and k.position <= q.position)"',
    ),
    Entry(
        "NLD108",
        "a verifier row at the wrong position",
        "Rotary embeddings depend on the position, so a token computed at another position "
        "gives other logits and leaves other keys. `position` counts from the end of the cache.",
        "  checked: {op: forward, tokens: draft, attention: causal, position: row + 1, cache: "
        "append}",
        "  checked: {op: forward, tokens: draft, attention: causal, cache: append}",
    ),
    Entry(
        "NLD109",
        "an adapter is on where the verifier computes",
        "AR decodes with the base weights. An adapter may draft; it must be off in verifying "
        "rows and in every row whose keys they see. Inside one forward it can be restricted to "
        "mask rows.",
        "    adapter: drafter",
        '    adapter: {drafter: "kind == mask"}',
    ),
    Entry(
        "NLD110",
        "the verifier's logits are changed",
        "Tokens are chosen from logits that are not those of one verifier row: a mixture, say. "
        "That is a different model from AR's. A mixture whose other weights are 0 is no change, "
        "and is proved.",
        "  ar_weight:    {type: float, default: 0.5, min: 0.0, max: 1.0}",
        "  ar_weight:    {type: float, default: 1.0, min: 0.0, max: 1.0}",
    ),
    Entry(
        "NLD111",
        "a verifier row is read as predicting its own position",
        "A causal row predicts the next token, a bidirectional one the token at its own "
        "position. AR reads causal rows.",
        "  checked: {op: forward, tokens: draft, attention: causal, predicts: self, cache: append}",
        "  checked: {op: forward, tokens: draft, attention: causal, cache: append}",
    ),
    Entry(
        "NLD112",
        "the cache keeps a row whose token was not accepted",
        "A row that stays in the cache is seen by everything after it. It must hold the token "
        "that was emitted at its place; a mask row, or a draft that may be rejected, does not.",
        '    cache: {append: "kind == mask"}',
        '    cache: {append: "kind == draft"}',
    ),
    Entry(
        "NLD113",
        "the cache keeps more rows than tokens were emitted",
        "Rows of rejected drafts would stay in the cache, and everything after would see them.",
        "  emit:    {tokens: kept.tokens, cache: keep all, next: {seed: kept.bonus}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD114",
        "the cache keeps fewer rows than tokens were emitted",
        "Some emitted token would have no keys and values in the cache: what follows would not "
        "see it.",
        "  emit:    {tokens: kept.tokens, cache: keep kept.matches, next: {seed: kept.bonus}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD115",
        "the cache keeps rows out of order",
        "Rows that stay are taken for consecutive positions from the end of the prefix on, in "
        "the order in which the forwards list them.",
        "  pair:   {op: join, parts: [one, seed]}",
        "  pair:   {op: join, parts: [seed, one]}",
    ),
    Entry(
        "NLD116",
        "what is carried is not AR's next choice",
        "The next step begins with the seed, which must be AR's choice after the last emitted "
        "token: `kept.bonus`, the verifier's choice at the first place where it did not agree "
        "with the draft.",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: choice.last}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD117",
        "a step may emit nothing",
        "Decoding would stand still. With `offset: 0` an `accept` may keep no token at all; "
        "with `offset: 1`, where the first drafted token is the seed, it always keeps one.",
        '  kept:   {op: accept, draft: "draft[:3]", target: choice, rule: longest_prefix, '
        "offset: 0}",
        "  kept:   {op: accept, draft: draft, target: choice, rule: longest_prefix}",
    ),
    Entry(
        "NLD118",
        "a loop may end with masked rows left",
        "A `repeat` ends when its rows are full or when `at_most` rounds are over, whichever comes "
        "first. Unless every round fills enough rows, however unsure the model is, masks may be "
        "left, and this strategy would emit them as tokens. Rows are full too when an EOS stands "
        "before the first mask: whoever emits what is behind it must emit the rows before it "
        "first, or write `eos: ignored`.",
        "      take: {op: select, among: block.masked, score: sure, at_least: threshold}",
        "      take: {op: select, among: block.masked, score: sure, at_least: threshold, always: "
        "best 1}",
    ),
    Entry(
        "NLD119",
        "how far the cache trails the text differs by outcome",
        "Each step takes for granted how many emitted tokens are not in the cache yet. That "
        "number must be the same whatever was accepted, and whatever the prompt's length.",
        '  context: {op: forward, tokens: $prompt, attention: causal, cache: {append: "row < 2"}}',
        "  context: {op: forward, tokens: $prompt, attention: causal, cache: append}",
    ),
    Entry(
        "NLD120",
        "`guarantee: distribution` is not proved",
        "The compiler proves equality with AR, token for token, which implies the same "
        "distribution. It knows no proof of the weaker promise alone. The other errors say what "
        "is missing.",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: seed}}",
        "  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD121",
        "whether the strategy is exact cannot be decided",
        "The proof lists every row and every outcome. Predicates over the prompt must be simple "
        "enough to be decided for every length of the prompt, and outcomes must not be too "
        "many. What cannot be decided is not promised.",
        '  context: {op: forward, tokens: $prompt, attention: "k.row <= q.row or 2 * k.row '
        '< q.row", predicts: next, cache: append}',
        "  context: {op: forward, tokens: $prompt, attention: causal, cache: append}",
    ),
    Entry(
        "NLD122",
        "a token is emitted that no `sample` chose",
        "Temperature, filters, logits processors and budgets apply where a token is sampled. A "
        "token of the prompt, of a lookup or of a masked row that is emitted as it is went around "
        "them; the label shows its way. An `accept` that finds it equal to a sampled token puts "
        "that right.",
        "  emit:    {tokens: draft, cache: keep all, next: {seed: choice}}",
        "  emit:    {tokens: kept.drafted, cache: keep kept.rows, next: {seed: kept.bonus}}",
    ),
    Entry(
        "NLD123",
        "a verifier row reads a speculative entry",
        "A forward sees what forwards before it in the same step appended. Those entries hold "
        "drafts until the step ends: a row that decides may see them only if their tokens are "
        "accepted whenever its own is.",
        "  first:  {op: forward, tokens: found, attention: causal, cache: append}",
        "  first:  {op: forward, tokens: older, attention: causal, cache: append}",
    ),
)
