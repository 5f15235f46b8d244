"""NLD001 to NLD009: reading the file."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD001",
        "the file cannot be read",
        "There is no such file, it is a folder, or it may not be read. A strategy of the "
        "library is named without a folder and without `.yaml`; `nldc strategies` lists them.",
        "nldc check strategies/lineer_ss.yaml",
        "nldc check strategies/linear_ss.yaml",
    ),
    Entry(
        "NLD002",
        "the file is not plain text",
        "A strategy is UTF-8 text. Control characters, and characters that reorder text on the "
        "screen, are refused (here the line separator, U+2028): what a reader sees must be what "
        "the compiler reads.",
        "summary: A causal forward\\u2028a token.",
        "summary: A causal forward a token.",
    ),
    Entry(
        "NLD003",
        "the file is not YAML",
        "The YAML ends here: what follows cannot be read, so only this mistake is reported. The "
        "most frequent reasons are text that needs quotes (it holds `: `, ` #`, or, inside "
        "`{…}`, one of `[ ] { } ,`), a tab used to indent, and a bracket or quote that is still "
        "open.",
        "  seed:    {op: sample, logits: context[-1]}",
        '  seed:    {op: sample, logits: "context[-1]"}',
    ),
    Entry(
        "NLD004",
        "a key appears twice",
        "Most YAML readers keep the last of two equal keys without a word. Here the file would "
        "then not mean what it says, so both places are shown.",
        "  seed:    {op: sample, logits: context.last}\n"
        "  seed:    {op: sample, logits: context.first}",
        "  seed:    {op: sample, logits: context.last}",
    ),
    Entry(
        "NLD005",
        "a YAML feature that strategies do not use",
        "Anchors, aliases, merge keys, tags and several documents in a file are refused. They "
        "make a strategy hard to read back, and some of them dangerous to read at all.",
        "  seed:    &first {op: sample, logits: context.last}",
        "  seed:    {op: sample, logits: context.last}",
    ),
    Entry(
        "NLD006",
        "the file is too large or too deep",
        "A strategy is at most 256 KiB of text, 32 levels of nesting and 20 000 values. The "
        "largest useful strategy needs a hundredth of that.",
        "summary: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[deep]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "summary: One causal forward a token.",
    ),
    Entry(
        "NLD007",
        "a key is not a name",
        "Keys are text. A number, `true`, `false`, `null`, an empty key, a list or a mapping "
        "cannot name anything. (`on`, `off`, `yes` and `no` are text here, unlike in older "
        "YAML.)",
        "  1: {op: sample, logits: context.last}",
        "  seed: {op: sample, logits: context.last}",
    ),
    Entry(
        "NLD008",
        "the file is not a mapping",
        "A strategy is a mapping: `nldc: 1`, `name: …` and so on. This file is empty, a list, "
        "or a single value.",
        "- nldc: 1",
        "nldc: 1",
    ),
    Entry(
        "NLD009",
        "a number is too large",
        "Integers have at most 18 digits, and floats must be finite. Sizes and params are "
        "smaller still: at most 2147483647.",
        "  block_length: {type: int, default: 16, min: 2, max: 9999999999999999999}",
        "  block_length: {type: int, default: 16, min: 2, max: 64}",
    ),
)
