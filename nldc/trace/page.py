"""A trace as one page: the text by how it came, each step's details, a player, what it comes to."""

from __future__ import annotations

from typing import Any

from nldc.trace.document import Draft, Part, Source, Step, Trace
from nldc.trace.file import as_data
from nldc.trace.summary import summary
from nldc.view.page import page

BODY = """<main>
<p id="what" class="soft"></p>
<section><h2>The text, as it came</h2>
<p class="soft">Point at a token, tap it, or go from one to the next with the arrow keys, to see the
step that it came from.</p>
<label id="pick" hidden>Sequence <select id="sequence"></select></label>
<p id="legend" class="legend"></p>
<div class="beside">
<div id="text" class="text" role="group" aria-label="Tokens"></div>
<aside id="step" class="card" aria-live="polite"></aside>
</div></section>
<section><h2>Iteration by iteration</h2>
<div class="player">
<button id="first" class="quiet" type="button" aria-label="First">&laquo;</button>
<button id="back" class="quiet" type="button" aria-label="Back">&lsaquo;</button>
<button id="play" type="button">Play</button>
<button id="on" class="quiet" type="button" aria-label="On">&rsaquo;</button>
<button id="last" class="quiet" type="button" aria-label="Last">&raquo;</button>
<input id="frame" type="range" min="0" value="0" aria-label="Iteration">
</div>
<p id="said" class="soft" aria-live="polite"></p>
<ol id="rows" class="rows"></ol></section>
<section class="figures">
<figure class="card"><figcaption>Tokens a step</figcaption><div id="histogram"></div></figure>
<figure class="card" id="positions"><figcaption>Accepted, by place in the draft</figcaption>
<div id="places"></div></figure>
<figure class="card"><figcaption>Time</figcaption><div class="scrolls"><table id="time"></table>
</div></figure>
</section>
<section><h2>Steps</h2><div class="scrolls"><table id="steps"></table></div></section>
</main>"""


def page_of(trace: Trace) -> str:
    """Return the page of a trace: a whole HTML file."""
    names = ", ".join(trace.artifact.strategies)
    return page(
        f"{names}: a trace", BODY, {"trace": data_of(trace)}, styles=("trace.css",),
        scripts=("trace.js",),
    )  # fmt: skip


def data_of(trace: Trace) -> dict[str, Any]:
    """Return what the page's script reads: texts in place of tokens, and what is said of each."""
    model, found = trace.model, summary(trace)
    promises = {name: each.guarantee for name, each in trace.artifact.strategies.items()}
    told = {
        f"{step.strategy}/{node}": f"line {where.line} of {where.file}"
        for step in trace.steps
        for node, where in trace.artifact.strategies[step.strategy].nodes.items()
    }
    return {
        "what": {
            "strategies": promises,
            "model": [model.name, model.dtype, model.device, model.backend],
            "tpf": found.tpf,
        },
        "summary": as_data(found),
        "places": told,
        "sequences": [_sequence(trace, number) for number in range(len(trace.sequences))],
    }


def _sequence(trace: Trace, number: int) -> dict[str, Any]:
    sequence = trace.sequences[number]
    left, steps = sequence.tokens, []
    for step, part in trace.parts_of(number):
        kept = min(left, len(part.tokens))
        left -= kept
        steps.append(_step(trace, step, part, kept))
    prompt = None if sequence.prompt is None else _texts(trace, sequence.prompt)
    return {"prompt": prompt, "length": sequence.length, "tokens": sequence.tokens,
            "finish": sequence.finish, "steps": steps}  # fmt: skip


def _step(trace: Trace, step: Step, part: Part, kept: int) -> dict[str, Any]:
    return {
        "number": step.number,
        "kind": step.kind,
        "strategy": step.strategy,
        "method": step.method,
        "seconds": step.seconds,
        "live": step.live,
        "nfe": part.nfe,
        "kept": kept,
        "tokens": _texts(trace, part.tokens),
        "origins": part.origins,
        "chosen": [_chosen(trace, part.sequence, source) for source in part.chosen],
        "draft": _draft(trace, part.sequence, part.draft),
        "forwards": [
            [each.node, len(each.tokens), each.seconds] for each in part.forwards
        ],
        "rounds": [
            {"node": each.node, "rows": _texts(trace, each.tokens), "masked": each.masked}
            for each in part.rounds
        ],
    }  # fmt: skip


def _draft(trace: Trace, sequence: int, draft: Draft | None) -> dict[str, Any] | None:
    if draft is None:
        return None
    return {
        "node": draft.node,
        "tokens": _texts(trace, draft.tokens),
        "probability": draft.probability,
        "by": [_chosen(trace, sequence, source) for source in draft.by],
        "targets": _texts(trace, draft.targets),
        "verified": [_chosen(trace, sequence, source) for source in draft.verified],
        "accepted": draft.accepted,
        "branch": draft.branch,
    }


def _chosen(trace: Trace, sequence: int, source: Source | None) -> dict[str, Any] | None:
    """Return what is known of a choice: node, step, row, position, and how sure the row was."""
    if source is None:
        return None
    choice, place = trace.choice(sequence, source)
    part = trace.part(sequence, source[0])
    first, second = choice.first[place], choice.second[place]
    other = second if first == choice.tokens[place] else first
    return {
        "node": choice.node,
        "step": source[0],
        "forward": part.forwards[choice.forwards[place]].node,
        "row": choice.rows[place],
        "position": choice.positions[place],
        "probability": choice.probability[place],
        "gap": choice.gap[place],
        "other": _texts(trace, (other,))[0],
        "first": first == choice.tokens[place],
    }


def _texts(trace: Trace, tokens: tuple[int, ...]) -> list[str]:
    if not trace.text:
        return ["·"] * len(tokens)
    return [trace.pieces.get(str(token), f"⟨{token}⟩") for token in tokens]
