"""The prefill or a step of a strategy in all its outcomes, as a thing to ask for terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nldc.check.lossless.closure import Closure
from nldc.check.lossless.runs import left_by, terms_of
from nldc.check.lossless.terms import Term
from nldc.check.lossless.trace import Tracer
from nldc.ir.graph import Graph, Step
from nldc.ir.ops import Value


@dataclass(frozen=True)
class Part:
    """The prefill of a strategy, or one of its steps."""

    graph: Graph
    step: Step | None
    tracer: Tracer
    closures: Sequence[Closure]

    @property
    def tokens(self) -> Value | None:
        """The use that is emitted; None in a prefill that emits nothing."""
        return self.graph.prefill_tokens if self.step is None else self.step.emit.tokens

    def carries(self) -> Iterator[tuple[str, Value]]:
        """Yield each carried value's name and what this part leaves for it."""
        yield from left_by(self.graph, self.step)

    def emitted(self, closure: Closure) -> tuple[Term, ...]:
        """Return the terms that are emitted in one outcome."""
        return () if self.tokens is None else self.terms(self.tokens, closure)

    def terms(self, value: Value, closure: Closure) -> tuple[Term, ...]:
        """Return what a use of tokens holds.

        Raises:
            UnknowableError: not even their number is known.
        """
        return terms_of(value, closure, self.tracer)
