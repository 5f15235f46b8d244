"""The expression language: sizes, positions, selections, and predicates over rows.

Text is parsed once to a frozen tree; from that tree come its value, its folded form and the
Python that torch and Triton run. There are no calls, loops or strings, and every bound (length,
depth, nodes, magnitude) is checked while parsing, so no text can cost more than a moment.

    or < and < not < == != < <= > >= < + - < * // % < unary - < name.field[selector]
"""

from nldc.expr.folding import fold, negated
from nldc.expr.meaning import evaluate, kind_of, real_part
from nldc.expr.parser import parse
from nldc.expr.printing import show
from nldc.expr.python import to_python
from nldc.expr.tree import (
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_LENGTH,
    MAX_NODES,
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Field,
    Item,
    Kind,
    Lookup,
    Node,
    Not,
    Number,
    Or,
    Ref,
    Selector,
    Slice,
    Unary,
    Value,
    children,
    references,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER",
    "MAX_LENGTH",
    "MAX_NODES",
    "And",
    "Binary",
    "Boolean",
    "Compare",
    "Expr",
    "ExprError",
    "Field",
    "Item",
    "Kind",
    "Lookup",
    "Node",
    "Not",
    "Number",
    "Or",
    "Ref",
    "Selector",
    "Slice",
    "Unary",
    "Value",
    "children",
    "evaluate",
    "fold",
    "kind_of",
    "negated",
    "parse",
    "real_part",
    "references",
    "show",
    "to_python",
]
