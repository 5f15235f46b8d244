"""Check a compiled artifact against AR, without the compiler: its own code on a free backbone.

The backbone is a hash (`backbone.py`) whose drafter agrees with AR for as many places as the plan
of a step says, so that every acceptance count occurs. Emitted tokens, kept cache entries and
progress are compared with AR of the same hash after every step (`run.py`). Nothing of nldc.ir,
nldc.check or nldc.codegen is used: only the artifact, and the small ops of the runtime.

What promises nothing is not held against AR. It must run without fault: every step emits, the mask
token and what a processor forbids are never emitted, what stays of the cache was there, what is
carried keeps its shape, and a sequence gets the same tokens wherever it stands in its batch.

Of an artifact with several strategies each is run so, and then they take turns: what a strategy
that promises nothing emits then counts as given, and the cache must hold AR's rows of that text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nldc.certify.report import CertifyReport
from nldc.certify.run import Run, scenarios_of
from nldc.certify.text import DifferenceError
from nldc.runtime.artifact import check_artifact
from nldc.runtime.errors import ArtifactError, NldcRuntimeError
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.switching import SwitchingDecoder

__all__ = ["QUICK", "CertifyReport", "certify", "certify_switching"]

CRASHED = "its code fails: "

QUICK = 10
"""Tokens of each sequence when an artifact is certified as it is compiled."""

TURNS = ((3, 0.0, None), (3, 0.9, None), (3, 0.9, 2), (3, 0.0, 7))
"""How many sequences change strategies, at which temperature, and with which thinking budget."""


Progress = Callable[[int, int], object]
"""Is told how many batches of how many have been run."""


def certify(
    artifact: str | Path,
    tokens: int = 48,
    seed: int = 0,
    *,
    quick: bool = False,
    progress: Progress | None = None,
) -> CertifyReport:
    """Run the artifact in `artifact` until each sequence has so many tokens, and compare with AR.

    `quick` leaves out what only informs: where a strategy that promises nothing parts from AR.
    `progress` is told how far it is.

    Raises:
        ArtifactError: there is no artifact, or it was edited.
    """
    folder = Path(artifact)
    manifest: dict[str, Any] = check_artifact(folder)
    if "strategies" in manifest:
        parts = [part["folder"] for part in manifest["strategies"].values()]
        share = partial(_share, progress, len(parts) + 1)
        own = tuple(
            certify(folder / part, tokens, seed, quick=quick, progress=share(number))
            for number, part in enumerate(parts)
        )
        return certify_switching(folder, tokens, seed, own, share(len(parts)))
    from nldc.api import load  # imports the artifact's Python; nothing of the compiler's passes

    is_free = manifest["guarantee"]["claimed"] == "none"

    def everything(run: Run) -> None:
        decoder = load(folder)
        scenarios = scenarios_of(decoder)
        for number, scenario in enumerate(scenarios):
            if progress is not None:
                progress(number, len(scenarios))
            emitted = run.batch(decoder, scenario, seed, 100 * number + seed)
            if run.given and not number:
                turned = run.batch(decoder, scenario, seed, 100 * number + seed, turned=True)
                if turned != emitted:
                    raise DifferenceError("a sequence's tokens depend on its place in the batch")

    fault = None
    if is_free:
        run = Run(tokens, None, given=True)
        fault = _first_difference(lambda: everything(run))
        if fault is not None or quick:
            return _report(manifest, run, None, fault=fault)
    run = Run(tokens, _frontier(folder))
    return _report(manifest, run, _first_difference(lambda: everything(run)))


def certify_switching(
    artifact: str | Path,
    tokens: int = 48,
    seed: int = 0,
    parts: tuple[CertifyReport, ...] = (),
    progress: Progress | None = None,
) -> CertifyReport:
    """Let the strategies of an artifact take turns, and compare with AR's continuation of the text.

    `parts` are the reports on the strategies alone, to go with this one.

    Raises:
        ArtifactError: there is no artifact of several strategies, or it was edited.
    """
    from nldc.api import load

    manifest: dict[str, Any] = check_artifact(artifact)
    decoder = load(artifact)
    if not issubclass(decoder, SwitchingDecoder):
        raise ArtifactError(f"{artifact} holds one strategy", "compile several into one folder")
    several = manifest["strategies"].items()
    exact = {name for name, part in several if part["guarantee"]["claimed"] != "none"}
    run = Run(tokens, None)

    def everything() -> None:
        for number, (size, temperature, thinking) in enumerate(TURNS):
            sampling = Sampling(temperature=temperature, seed=seed)
            if progress is not None:
                progress(number, len(TURNS))
            for sequence in range(size):
                run.turns(decoder, exact, sampling, thinking, 100 * number + seed + sequence)

    return _report(manifest, run, _first_difference(everything), parts)


def _share(progress: Progress | None, shares: int, number: int) -> Progress | None:
    """Return what is told of one of several runs, for who is told of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, shares * total)


def _first_difference(everything: Callable[[], None]) -> str | None:
    """Return what is wrong, if anything: whatever generated code raises is a fault of its own."""
    try:
        everything()
    except DifferenceError as found:
        return str(found)
    except NldcRuntimeError:
        raise
    except Exception as problem:
        return f"{CRASHED}{type(problem).__name__}: {problem}"
    return None


def _report(
    manifest: dict[str, Any],
    run: Run,
    difference: str | None,
    parts: tuple[CertifyReport, ...] = (),
    *,
    fault: str | None = None,
) -> CertifyReport:
    return CertifyReport(
        strategy=manifest["strategy"],
        claimed=manifest["guarantee"]["claimed"],
        switched="strategies" in manifest,
        sequences=run.sequences,
        steps=run.steps,
        tokens=run.tokens,
        entries=run.entries,
        accepted=tuple(sorted(run.accepted.items())),
        difference=difference,
        fault=fault,
        compared=not run.given,
        crashed=(fault or difference or "").startswith(CRASHED),
        parts=parts,
    )


def _frontier(folder: Path) -> int | None:
    """Return how far the cache trails the text by the certificate, if there is one."""
    path = folder / "certificate.json"
    if not path.exists():
        return None
    between = json.loads(path.read_text(encoding="utf-8")).get("between_steps")
    return None if between is None else int(between["frontier"])
