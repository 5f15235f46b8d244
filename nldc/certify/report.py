"""What was run and compared, and the first difference from AR or the first fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CertifyReport:
    """What was run, and the first difference from AR if there is one.

    `accepted` counts steps by the number of tokens that they emitted. `fault` is what no strategy
    may do, whatever it promises; without `compared`, only that was looked for. `crashed`: the
    generated code raised. `switched`: strategies took turns; `parts` are then the reports on each
    alone.
    """

    strategy: str
    claimed: str
    switched: bool
    sequences: int
    steps: int
    tokens: int
    entries: int
    accepted: tuple[tuple[int, int], ...]
    difference: str | None
    fault: str | None = None
    compared: bool = True
    crashed: bool = False
    parts: tuple[CertifyReport, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the artifact keeps its promise on everything that was run.

        Switching promises that every strategy goes on from the text, whatever they promise.
        """
        return self.broken is None

    @property
    def broken(self) -> CertifyReport | None:
        """The first report, of the parts and this one, on a promise that is not kept."""
        for part in self.parts:
            if part.broken is not None:
                return part.broken
        is_free = self.claimed == "none" and not self.switched
        found = self.fault if is_free else self.fault or self.difference
        return None if found is None else self

    def text(self) -> str:
        """Return the report for a terminal."""
        return "".join(part.text() for part in self.parts) + self._own_text()

    def _own_text(self) -> str:
        counts = ", ".join(f"{n}: {times}" for n, times in self.accepted)
        compared = " compared with AR" if self.compared else ""
        ran = (
            f"{self.strategy}: {self.sequences} sequences, {self.steps} steps, {self.tokens} tokens"
            f" and {self.entries} cache entries{compared}\n"
        )
        if counts:
            ran += f"tokens a step, and how often: {counts}\n"
        if self.fault is not None:
            return f"{ran}FAULTY, whatever it promises: {self.fault}\n"
        if not self.compared:
            return f"{ran}it runs without fault; guarantee: {self.claimed}\n"
        if self.switched and self.difference is None:
            return f"{ran}every switch goes on from the text, and every cache entry is its row\n"
        if self.switched:
            return f"{ran}NOT to be switched: {self.difference}\n"
        if self.difference is None:
            return f"{ran}every token and every cache entry is AR's; guarantee: {self.claimed}\n"
        if self.claimed == "none":
            return f"{ran}differs from AR, as it may (guarantee: none): {self.difference}\n"
        return f"{ran}NOT {self.claimed}: {self.difference}\n"
