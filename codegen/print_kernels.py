"""Print kernel_*.py: one attention predicate each, for Triton.

Triton knows a compiled kernel by the text of its functions and the lines on which they begin. So a
file holds one function, always of the same name and on the same line, and nothing that differs
between two strategies with the same predicate: one compiled kernel serves them both, on disk too.
"""

from __future__ import annotations

from nldc.codegen.predicate import print_predicate
from nldc.codegen.program import Program
from nldc.codegen.writer import Writer
from nldc.expr import Expr
from nldc.runtime.abi import PREDICATE_ARGUMENTS, PROMPT_ARGUMENT


def print_kernels(program: Program) -> dict[str, str]:
    """Return the sources of the kernels' modules, by the names of their files."""
    return {
        f"{pattern.kernel}.py": print_kernel(pattern.predicate, asks_prompt=pattern.asks_prompt)
        for pattern in program.patterns
    }


def print_kernel(predicate: Expr, *, asks_prompt: bool = False) -> str:
    """Return the source of a predicate's module, which may ask which rows are the prompt's."""
    out = Writer()
    out.line('"""Which keys a row sees, inlined by Triton into the attention kernel."""')
    out.line()
    out.line("import triton")
    # Triton's interpreter looks for its language in the module of each function.
    out.line("import triton.language as tl  # noqa: F401")
    out.line()
    out.line()
    out.line("@triton.jit")
    out.line("def sees(")
    with out.indent():
        for argument in (*PREDICATE_ARGUMENTS, *[PROMPT_ARGUMENT] * asks_prompt):
            out.line(f"{argument},")
    out.line("):")
    with out.indent():
        print_predicate(out, predicate, "_")
    return out.text()
