"""NLD090 to NLD099: adapters."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD090",
        "an adapter that is not declared",
        "A forward names an adapter, or a `safety` a sampler, that `adapters` does not declare as "
        "one. The declaration says what kind it is and whether a checkpoint may lack it.",
        "  drafted: {op: forward, tokens: block, attention: causal, adapter: draftr, cache: read}",
        "  drafted: {op: forward, tokens: block, attention: causal, adapter: drafter, cache: read}",
    ),
    Entry(
        "NLD091",
        "an adapter that no forward uses (a warning)",
        "The adapter is declared, so running the strategy asks the checkpoint for it, and no "
        "forward switches it on, or nothing asks the sampler.",
        "  drafter: {kind: lora}",
        "  drafted: {op: forward, tokens: block, attention: causal, adapter: drafter, cache: read}",
    ),
)
