"""Find the reason why a token is not AR's, or a row not computed as AR would: the first cause.

The search goes back from the token to the row it was sampled from, to what that row holds and sees,
and from there on, until it meets something that is wrong by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Fault
from nldc.check.lossless.closure import Closer, Closure
from nldc.check.lossless.held import Entry
from nldc.check.lossless.terms import MASK, Term, ar
from nldc.diagnostics import Span
from nldc.ir.graph import Graph, Step, uses
from nldc.ir.ops import Accept, Forward, Join, LayRows, Mix, Sample, Value


@dataclass(frozen=True)
class Cause:
    """What is wrong: a code, the node and its key in the file, and a sentence for the label.

    `needs` is a carried element, and the offset at which it should be AR's token, where the fault
    lies in how it was made; `help` mends it where that is not what mends every fault of the code.
    `fault` is the row that the sentence names.
    """

    code: str
    node: str
    key: str | None
    text: str
    needs: tuple[str, int, int] | None = None
    span: Span | None = None
    help: str | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Blame:
    """Searches one closed outcome of the prefill, or of a step."""

    graph: Graph
    step: Step | None
    closer: Closer
    closure: Closure

    def token(
        self, term: Term, offset: int, node: str, seen: frozenset[int] = frozenset()
    ) -> Cause:
        """Return why the term, a value of `node`, is not AR's token at the offset."""
        equalities, trace = self.closure.equalities, self.closure.trace
        known = equalities.offsets(term)
        if known:
            maker = node if term[0] == "carry" else self.maker(term, node)
            if term[0] == "choice" and int(term[1]) not in self.closure.pure:
                entry = trace.entries[int(term[1])]
                why = self.row(entry, offset - 1, seen)
                text = f"`{_last(maker)}` is chosen from row {entry.row} of `{_short(entry)}`"
                help_text = "sample every target from the row of the verifier before its place"
                text = f"{text}: {why.text}"
                fault = why.fault or self.fault(entry)
                return Cause(codes.UNVERIFIED, maker, "logits", text, help=help_text, fault=fault)
            this = "this" if maker == node else f"`{_last(maker)}`"
            text = f"{this} is AR's token at {_at(known[0])}, not {_at(offset)}"
            return Cause(codes.WRONG_PLACE, maker, None, text)
        members = equalities.members(term)
        for member in sorted([m for m in members if m[0] == "choice"], key=lambda m: m != term):
            entry = trace.entries[int(member[1])]
            if entry.number in self.closure.pure and entry.predicts_next:
                text = f"row {entry.row} is followed by a token of the prompt: AR chose none there"
                return Cause(codes.UNVERIFIED, entry.node, None, text, fault=self.fault(entry))
            if entry.number in self.closure.pure:
                text = f"row {entry.row} is read as predicting {_at(entry.position)}"
                fault = self.fault(entry)
                return Cause(codes.PREDICTS_SELF, entry.node, "predicts", text, fault=fault)
            if entry.number not in seen:
                return self.row(entry, offset - 1, seen)
        guesses = [member for member in members if member[0] == "made" and member != term]
        if guesses:
            return self._made(min(guesses), node)
        if term == MASK:
            return Cause(codes.UNVERIFIED, node, None, "a masked row that was not filled")
        if term[0] == "carry":
            name, element = str(term[1]), int(term[2])
            text = f"`{name}` is not known to hold AR's token here"
            return Cause(codes.SEED, node, None, text, (name, element, offset))
        return self._made(term, node)

    def maker(self, term: Term, node: str) -> str:
        """Return the node that a term, a value of `node`, was made by: back through what joins."""
        values = self.closure.trace.values
        try:
            op = self.graph.node(node).op
        except KeyError:
            return node
        sources: tuple[Value, ...] = ()
        if isinstance(op, Accept):
            sources = (op.target, op.draft)
        elif isinstance(op, Join):
            sources = op.parts
        for source in sources:
            held = getattr(values.get(source.node), "tokens", values.get(source.node))
            if isinstance(held, tuple) and term in held and not source.node.startswith("carry."):
                return self.maker(term, source.node)
        return node

    def shifted(self) -> Cause | None:
        """Return an accept that holds targets against drafts which lie at other places."""
        region = self.graph.prefill if self.step is None else self.step.region
        for node in region.nodes:
            if isinstance(node.op, Accept):
                found = self._shift(node.name, node.op)
                if found is not None:
                    return found
        return None

    def _shift(self, name: str, op: Accept) -> Cause | None:
        """Return what is wrong with an accept if every target is for another place than its draft.

        A draft lies where the verifier computes it, in the forward that its target is sampled from.
        """
        trace, off = self.closure.trace, set[int]()
        compared = [pair for pair in (*trace.equal, *trace.different) if pair[1][0] == "choice"]
        for draft, target in compared:
            chosen = trace.entries[int(target[1])]
            at = [
                entry.position
                for entry in trace.entries
                if entry.node == chosen.node and trace.tokens[entry.number] == draft
            ]
            if len(at) != 1 or draft == MASK:
                return None
            off.add(at[0] - chosen.position - chosen.predicts_next)
        if len(off) != 1 or off == {0}:
            return None
        offset = op.offset - off.pop()
        text = f"`offset: {op.offset}` holds target i against draft i + {op.offset}"
        text += f"; it is AR's choice for the place of draft i + {offset}"
        help_text = f"write `offset: {offset}`, or let draft and target begin at the same place"
        return Cause(codes.UNVERIFIED, name, "offset", text, help=help_text)

    def _made(self, term: Term, node: str) -> Cause:
        maker = str(term[1]) if term[0] == "made" else node
        try:
            op = self.graph.node(maker).op
        except KeyError:
            return Cause(codes.UNVERIFIED, node, None, "no verifier row chose this")
        if isinstance(op, Sample) and op.mask_token == "forbidden":
            text = "this never chooses the mask token, which AR may"
            return Cause(codes.CHANGED, maker, None, text)
        if isinstance(op, Sample):
            source = self.graph.node(op.logits.node)
            if isinstance(source.op, Mix):
                text = "logits that are added up are rounded: they may not be one verifier row's"
                return Cause(codes.CHANGED, source.name, None, text)
            if not isinstance(source.op, Forward):
                text = "these logits are not those of one verifier row"
                return Cause(codes.CHANGED, source.name, None, text)
        short = maker.rsplit(".", 1)[-1]
        return Cause(
            codes.UNVERIFIED, maker, None, f"`{short}` is a guess that no verifier row confirmed"
        )

    def fault(self, entry: Entry, *others: Entry, cached: bool = False) -> Fault:
        """Return a row as data, with `others` that it sees or misses, and whether in the cache."""
        own = tuple(each.row for each in others if each.number not in entry.cached)
        cached = cached or len(own) < len(others)
        return Fault(entry.node, entry.row, own, cached, self.closure.trace.prompt_length)

    def row(self, entry: Entry, offset: int, seen: frozenset[int] = frozenset()) -> Cause:
        """Return why the entry is not AR's row at the offset."""
        trace = self.closure.trace
        seen = seen | {entry.number}
        token = trace.tokens[entry.number]
        row, here = f"row {entry.row}", self.fault(entry)
        if entry.position != offset and self.closure.equalities.equal(token, ar(offset)):
            text = f"{row} holds the token at {_at(offset)} and lies at {_at(entry.position)}"
            return Cause(codes.POSITION, entry.node, "position", text, fault=here)
        if token == MASK:
            text = f"row {entry.row} is a mask: what it predicts is a guess"
            return Cause(codes.UNVERIFIED, entry.node, None, text, fault=here)
        if not self.closure.equalities.equal(token, ar(entry.position)):
            cause = self.token(token, entry.position, entry.node, seen)
            if cause.code == codes.WRONG_PLACE:
                text = f"{row} lies at {_at(entry.position)}, and its token elsewhere"
                return Cause(codes.POSITION, entry.node, "position", text, fault=here)
            if cause.code == codes.UNVERIFIED:
                text = f"{cause.text}, and {row} of `{_short(entry)}` holds it"
                return replace(cause, text=text, fault=cause.fault or here)
            return cause
        if entry.adapted:
            return Cause(
                codes.ADAPTED, entry.node, "adapter", f"{row} is computed with it", fault=here
            )
        others = self.closer.others(entry, trace)
        if others is None:
            return self._sight(entry)
        for number in others:
            other = trace.entries[number]
            if number in self.closure.pure or number in seen:
                continue
            cause = self.row(other, other.position, seen)
            if number in entry.cached and cause.code == codes.UNVERIFIED:
                text = f"{row} sees row {other.row} of `{_short(other)}`, which may be rejected"
                fault = self.fault(entry, other)
                return Cause(codes.READS_SPECULATIVE, entry.node, "attention", text, fault=fault)
            return cause
        text = f"{row} is not known to be AR's"
        return Cause(codes.UNVERIFIED, entry.node, None, text, fault=here)

    def _sight(self, entry: Entry) -> Cause:
        """Return what is wrong with what a row sees, whatever the tokens are."""
        trace = self.closure.trace
        prefix, numbers = entry.sees()
        row = f"row {entry.row}"

        def cause(code: str, text: str, *others: Entry, cached: bool = False) -> Cause:
            fault = self.fault(entry, *others, cached=cached)
            return Cause(code, entry.node, "attention", text, fault=fault)

        flaw = self.closer.flaw(entry, trace)
        if flaw is not None:
            fault = None
            if flaw.row is not None:
                fault = Fault(entry.node, flaw.row, flaw.keys, length=flaw.length)
            return Cause(flaw.code, entry.node, flaw.key, flaw.text, fault=fault)
        if not prefix and trace.prompt_length == 0:
            return cause(codes.MISSES_ROW, f"{row} does not see the whole prefix", cached=True)
        if entry.number not in numbers:
            return cause(codes.MISSES_ROW, f"{row} does not see itself", entry)
        others = [trace.entries[number] for number in numbers if number != entry.number]
        for other in others:
            if trace.tokens[other.number] == MASK:
                text = f"{row} sees row {other.row} of `{_short(other)}`, a mask"
                is_cached = other.number in entry.cached
                return cause(codes.READS_SPECULATIVE if is_cached else codes.SEES_MASK, text, other)
        at: dict[int, Entry] = {entry.position: entry}
        for other in others:
            twin = at.setdefault(other.position, other)
            if twin is other:
                continue
            same = self.closure.equalities.equal(
                trace.tokens[twin.number], trace.tokens[other.number]
            )
            text = f"{row} sees rows {twin.row} and {other.row}, both at {_at(other.position)}"
            return cause(codes.SEES_TWICE if same else codes.SEES_BRANCH, text, twin, other)
        for other in others:
            if other.position > entry.position:
                text = f"{row}, at {_at(entry.position)}, sees row {other.row} at "
                return cause(codes.SEES_LATER, text + _at(other.position), other)
        missing = min(set(range(entry.position)) - set(at), default=0)
        there = [
            each
            for each in trace.entries
            if (each.node, each.position) == (entry.node, missing)
            and self.closure.equalities.equal(trace.tokens[each.number], ar(missing))
        ]
        return cause(codes.MISSES_ROW, f"{row} does not see the token at {_at(missing)}", *there)


def target_help(step: Step | None, emitted: str) -> str | None:
    """Return what mends an accept that is emitted, if its targets are not chosen over its draft.

    None: no accept is emitted, or its targets are choices of a forward over the draft.
    """
    nodes = {} if step is None else {node.name: node for node in step.region.nodes}
    accept = nodes[emitted].op if emitted in nodes else None
    if not isinstance(accept, Accept):
        return None
    draft = accept.draft.node
    rows = {draft} | {
        node.name
        for node in nodes.values()
        if isinstance(node.op, LayRows) and any(value.node == draft for value in uses(node.op))
    }
    verifiers = [
        node.name
        for node in nodes.values()
        if isinstance(node.op, Forward) and node.op.rows.node in rows
    ]
    samples = [
        node.name
        for node in nodes.values()
        if isinstance(node.op, Sample) and node.op.logits.node in verifiers
    ]
    if accept.target.node in samples:
        return None
    said = f"the `target` of `{_last(emitted)}` must be the choices of a forward over its draft"
    if samples:
        return f"{said}: write `target: {_last(samples[-1])}`"
    if verifiers:
        return f"{said}: sample from `{_last(verifiers[-1])}`"
    return f"{said}: compute `{_last(draft)}` by a causal forward and sample from that"


def _at(offset: int) -> str:
    return f"offset {offset}"


def _short(entry: Entry) -> str:
    return _last(entry.node)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
