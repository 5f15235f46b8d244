"""What may be a name, and which names would mean two things where they are used.

Names of different kinds that never meet in an expression may be equal: a node and a label, a node
and a param, an adapter and anything.
"""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
"""A letter, then letters, digits and `_`, of ASCII: no two such names look or compare alike."""

RULE = "a letter, then letters, digits and `_`, at most 64 in all"

LANGUAGE = ("and", "or", "not", "true", "false")
"""Words of the expression language."""

ROW = ("kind", "group", "index", "row", "masked")
"""What predicates ask of a row."""

NODE = (*LANGUAGE, "prefill", "step", "carry", "emit", "q", "k", "kind", "group", "index", "row")
"""What no node and no carried value may be called: references see the regions and rows' facts."""

PARAM = (*LANGUAGE, *ROW, "rank", "score", "iteration", "left", "live")
"""What no param may be called: rules of `select` and `route` have numbers of these names."""

COUNT = (*PARAM, "position", "prefix")
"""What no Count may be called: choices of rows, `route` and rules have numbers of these names."""

LABEL = (*LANGUAGE, *ROW, "position", "prefix", "first", "last", "tokens", "filled")
"""What no kind of rows may be called: `rows.tokens`, `rows.first` and the like are no labels."""

FRAGMENT = (*NODE, *PARAM, "position", "prefix", "prompt", "best", "causal", "bidirectional")
"""What nothing of a fragment may be called: its names are replaced wherever they stand alone."""

FRAGMENT_KIND = (*FRAGMENT, *LABEL, "rows", "drafted", "matches", "bonus")
"""What no kind of rows of a fragment may be called: its kinds are replaced behind a `.` too."""
