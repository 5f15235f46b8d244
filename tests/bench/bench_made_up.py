"""The data of a benchmark that nobody ran."""

from __future__ import annotations

from typing import Any


def line(strategy: str, tps: float, tpf: float, **more: Any) -> dict[str, Any]:
    settings = more.pop("settings", {})
    chosen = [f"{name}={value}" for name, value in settings.items()]
    exact = more.pop("exact", True)
    found: dict[str, Any] = {
        "strategy": strategy,
        "name": " ".join([strategy, *chosen]),
        "settings": settings,
        "guarantee": "exact" if exact else "none",
        "same": exact,
        "agreement": 1.0,
        "tokens": 64,
        "nfe": 32,
        "accepted": tpf,
        "adapters": [],
        "time_to_first_token": 0.012,
        "tps": tps,
        "tps_slowest": tps * 0.9,
        "tps_fastest": tps * 1.05,
        "tpf_with_prefill": tpf * 0.97,
        "tpf_without_prefill": tpf,
        "acceptance_length": None,
        "drafts": 0,
        "by_position": [],
        "categories": [],
        "observed": {"seconds": 0.02, "by_prefix": [[130, 0.019], [150, 0.021], [180, 0.022]]},
        "rows": 1.0,
        "forwards": 1.0,
    }
    return found | more


def drafted(*accepted: int) -> dict[str, Any]:
    """What 20 drafts came to, of which so many were accepted up to each place."""
    return {
        "drafts": 20,
        "acceptance_length": sum(accepted) / 20 + 1,
        "by_position": [
            {"position": place, "offered": 20, "accepted": number}
            for place, number in enumerate(accepted, start=1)
        ],
    }


def data() -> dict[str, Any]:
    category = {
        "category": "code", "answers": 4, "tokens": 64, "same": True, "agreement": 1.0,
        "times": [1.0], "tps": 64.0, "tpf_with_prefill": 1.4, "tpf_without_prefill": 1.5,
        "acceptance_length": 2.9,
    }  # fmt: skip
    return {
        "format": 1,
        "environment": {"nldc": "0", "device": "a machine"},
        "results": [
            line("ar", 61.5, 1.0),
            line("linear_ss", 90.0, 1.55, settings={"block_length": 4}, rows=4.0, forwards=2.0,
                 categories=[category], **drafted(18, 14, 9)),
            line("linear_ss", 60.0, 1.52, settings={"block_length": 8}, rows=8.0, forwards=2.0,
                 **drafted(18, 13, 8, 3, 1, 0, 0)),
            line("block_diffusion", 32.0, 1.1, exact=False, agreement=0.59, rows=16.0),
            line("factor_threshold", 45.0, 1.3, exact=False, agreement=0.57, rows=16.0),
            line("wino", 30.0, 1.3, exact=False, agreement=0.2, rows=16.0),
        ],
        "predicted": {
            "device": "h100",
            "forward": [
                {"prefix": prefix, "rows": rows, "seconds": 1e-4 * (1 + rows / 200 + prefix / 9000)}
                for prefix in (128, 8192)
                for rows in (1, 8, 64, 512)
            ],
        },
    }  # fmt: skip
