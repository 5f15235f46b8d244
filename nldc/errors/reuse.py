"""NLD020 to NLD024: one strategy of several files."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD020",
        "a file that may not be used, or is not there",
        "`extends` and `include` name a strategy of the library, `package:name` of an installed "
        "package that declares its strategies, or the path of a file below this one's folder. A "
        "path leads nowhere else: not out of the folder by `..`, an absolute path or a link. What "
        "is given as text has no folder, so only the library and packages can be named there.",
        "extends: ../linear.yaml",
        "extends: shared/linear.yaml",
    ),
    Entry(
        "NLD021",
        "files that lead back to themselves, or too many",
        "A file extends another that extends the first, a fragment includes itself, or there are "
        "more than 16 files, or 8 in a row. No useful strategy needs that many.",
        "extends: bad.yaml",
        "extends: shared/linear.yaml",
    ),
    Entry(
        "NLD022",
        "what is changed or taken away is not there",
        "In a file that extends another, a node without `op`, a param without `type` and an "
        "adapter without `kind` change the one of that name, and `null` takes something away. What "
        "is not in the file that is extended can be neither changed nor taken away.",
        "  draft: {attention: causal}",
        "  drafted: {attention: causal}",
    ),
    Entry(
        "NLD023",
        "a fragment and its use do not fit",
        "An include names a fragment, `FILE#NAME`, and gives it with `with` all that it takes. A "
        "fragment has names of its own, each of which is one thing and no word of the language, "
        "and yields one of its nodes. Numbers that it is given lie in the bounds of its params.",
        "  drafted: {include: shared/fragments.yaml#denoised, with: {row: block}}",
        "  drafted: {include: shared/fragments.yaml#denoised, with: {rows: block}}",
    ),
    Entry(
        "NLD024",
        "a fragment names what is outside of it",
        "The nodes of a fragment see what it takes, its params, the kinds of rows that it lays out "
        "and one another. Nothing else of the strategy that includes it is in sight, so that no "
        "name in it can mean something by chance. List what is needed under `takes`.",
        "      seen: {op: forward, tokens: block, attention: bidirectional, cache: read}",
        "      seen: {op: forward, tokens: rows, attention: bidirectional, cache: read}",
    ),
)
