"""A benchmark as plain data: what `nldc bench --json` prints, and what its page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nldc.bench.figures import Figures
from nldc.bench.measured import InCategory, Measured

FORMAT = 1
"""The version of the data: a key keeps its meaning within one."""


@dataclass(frozen=True)
class Curves:
    """Predicted seconds of a forward on a device, by prefix: (rows, seconds)."""

    device: str
    times: Mapping[int, Sequence[tuple[int, float]]]


def as_data(
    measured: Sequence[Measured], environment: Mapping[str, str], curves: Curves | None = None
) -> dict[str, Any]:
    """Return what was measured, AR first, and what a forward is predicted to take."""
    found: dict[str, Any] = {
        "format": FORMAT,
        "environment": dict(environment),
        "results": [_line(line) for line in measured],
    }
    if curves is not None:
        found["predicted"] = {
            "device": curves.device,
            "forward": [
                {"prefix": prefix, "rows": rows, "seconds": seconds}
                for prefix, points in curves.times.items()
                for rows, seconds in points
            ],
        }
    return found


def curves_of(device: str | Path | None, model: str | Path | None) -> Curves | None:
    """Return what a causal forward of a checkpoint (None: the demo model) takes on a device.

    Raises:
        NldcRuntimeError: there is no such device, or the checkpoint has no config.
    """
    if device is None:
        return None
    from nldc.cost.beside import forward_times
    from nldc.cost.device import load_device
    from nldc.cost.geometry import load_geometry
    from nldc.verify import model_folder

    found = load_device(device)
    dtype = "bfloat16" if "bfloat16" in found.flops else next(iter(found.flops))
    return Curves(found.name, forward_times(found, load_geometry(model_folder(model)), dtype))


def _line(line: Measured) -> dict[str, Any]:
    slowest, fastest = line.slowest_and_fastest
    own = asdict(line)
    for name in ("figures", "categories"):
        del own[name]
    return {
        **own,
        "name": line.name,
        "tpf": line.tpf,
        "tps": line.tokens_per_second,
        "tps_slowest": slowest,
        "tps_fastest": fastest,
        **_figures(line.figures),
        "categories": [_category(each) for each in line.categories],
    }


def _category(each: InCategory) -> dict[str, Any]:
    return {
        "category": each.category,
        "answers": each.figures.answers,
        "tokens": each.figures.tokens,
        "same": each.same,
        "agreement": each.agreement,
        "times": list(each.times),
        "tps": each.tokens_per_second,
        **_figures(each.figures),
    }


def _figures(figures: Figures) -> dict[str, Any]:
    places = zip(figures.offered, figures.accepted, strict=True)
    return {
        "tpf_with_prefill": figures.tpf_with_prefill,
        "tpf_without_prefill": figures.tpf_without_prefill,
        "acceptance_length": figures.acceptance_length,
        "drafts": figures.drafts,
        "accepted_drafted_tokens": sum(figures.accepted),
        "by_position": [
            {"position": place, "offered": offered, "accepted": accepted}
            for place, (offered, accepted) in enumerate(places, start=1)
        ],
    }
