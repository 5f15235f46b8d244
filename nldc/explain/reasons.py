"""A strategy's promise in plain words: what is promised, and why it holds or does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nldc.api import Checked
from nldc.check.lossless.certificate import Certificate, Ground
from nldc.check.lossless.codes import KINDS, Obligation
from nldc.explain.model import Promise, Reason, in_words
from nldc.explain.places import named
from nldc.ir.graph import Graph
from nldc.ir.ops import Repeat

PLAIN: Mapping[Obligation, str] = {
    "source": "every token that comes out is the choice of one of these rows",
    "visibility": "each of these sees the text before it and itself, and no guess that may fail",
    "purity": "no adapter is on these, and nothing changes their logits",
    "seed": "what one step hands to the next is what the proof takes it for, whatever is accepted",
}


def promise_of(checked: Checked) -> Promise:
    """Return the promise, with the reasons for or against it."""
    certificate, claimed = checked.certificate, checked.guarantee
    if certificate.proved == "exact":
        text = "exact: every token that comes out is the one that AR would have chosen"
        if claimed != "exact":
            text = f"it promises `{claimed}`, and is {text}"
        return Promise(True, claimed, text, tuple(_reasons(checked.graph, certificate)))
    text = "no promise: what comes out may differ from AR's tokens"
    if claimed != "none":
        text = f"it promises `{claimed}`, which is not proved"
    return Promise(False, claimed, text, tuple(_problems(certificate)))


def _reasons(graph: Graph, certificate: Certificate) -> Iterator[Reason]:
    for ground in certificate.grounds:
        rests, rows = tuple(_rests(graph, ground)), tuple(_rows(graph, ground))
        brief = {"source": rows, "seed": rests}.get(ground.obligation, ())
        yield Reason(ground.obligation, _plain(graph, ground), rests, brief, ground.reason)
    through = tuple(named(node, graph) for node in certificate.sampled_by)
    yield Reason(
        "constraints",
        "every token that comes out goes through these, where temperature, filters, processors and "
        "budgets apply",
        through,
        through,
        "every emitted token is chosen by one of these, and nothing else",
    )


def _plain(graph: Graph, ground: Ground) -> str:
    if ground.obligation == "cache":
        return f"what stays in the cache are keys and values of these: {ground.reason}"
    if ground.obligation == "progress":
        loops = any(isinstance(node.op, Repeat) for node in graph.nodes)
        return "every step emits a token" + (", and every loop ends" if loops else "")
    return PLAIN[ground.obligation]


def _rests(graph: Graph, ground: Ground) -> Iterator[str]:
    """Say what an obligation rests on: rows of forwards, then other nodes.

    Of a prompt's rows, which numbers were looked at follows from the lengths that were tried.
    """
    yield from _rows(graph, ground)
    yield from (named(node, graph) for node in ground.nodes if node not in ground.rows)


def _rows(graph: Graph, ground: Ground) -> Iterator[str]:
    for node, rows in ground.rows.items():
        if node.startswith("prefill."):
            yield f"{node}, at every length of the prompt"
        else:
            yield f"{named(node, graph)}: {in_words(rows)}"


def _problems(certificate: Certificate) -> Iterator[Reason]:
    for problem in certificate.problems:
        context = f" ({problem.context})" if problem.context else ""
        rests = (problem.node,)
        text = f"{problem.message}: {problem.text}{context}"
        yield Reason(problem.code, text, rests, rests, problem.help or KINDS[problem.code].help)


def proved_for(certificate: Certificate) -> str:
    """Say for which params something was proved, and in how many outcomes."""
    number = certificate.outcomes
    outcomes = "its one outcome" if number == 1 else f"all of its {number} outcomes"
    values = ", ".join(f"{name} = {value}" for name, value in _numbers(certificate))
    return f"proved {f'for {values}' if values else 'as it is'}, in {outcomes}"


def _numbers(certificate: Certificate) -> Iterator[tuple[str, str]]:
    for name, value in certificate.params.items():
        if name in certificate.runtime:
            each = certificate.runtime[name]
            yield name, f"{each.low} to {each.high}"
        elif isinstance(value, int | float):
            yield name, str(value)
        else:
            yield name, "this profile"
