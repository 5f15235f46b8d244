"""What dashboards read: the names that vLLM's have, and how many forwards a token takes."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nldc.runtime.engine.engine import Engine
from nldc.runtime.engine.observe import StepRecord
from nldc.serve.watching import Took

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ("model_name", "engine")
_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0, 2.5)
_LATENCIES = (
    *(0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0),
    *(15.0, 20.0, 30.0, 40.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self, model_name: str, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self.drafts = self._counter("spec_decode_num_drafts", "Steps that verified a draft.")
        self.drafted = self._counter("spec_decode_num_draft_tokens", "Tokens that were drafted.")
        self.accepted = self._counter(
            "spec_decode_num_accepted_tokens", "Drafted tokens that the verifier agreed with."
        )
        self._by_position = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens that the verifier agreed with, by their place in the draft.",
            (*LABELS, "position"),
            registry=self.registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self._success = Counter(
            "vllm:request_success",
            "Sequences that have ended, by what ended them.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _SECONDS
        )
        self.gap = self._histogram(
            "inter_token_latency_seconds",
            "From token to token; of tokens that come together each has its share.",
            _GAPS,
        )
        self.latency = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to its end.", _LATENCIES
        )
        self._gauge("num_requests_running", "Sequences being decoded.").set_function(
            lambda: engine.live
        )
        self._gauge("num_requests_waiting", "Sequences that wait.").set_function(
            lambda: max(0, engine.waiting)
        )
        self._gauge("kv_cache_usage_perc", "Pages of the cache in use; 1 is all.").set_function(
            lambda: engine.cache.used / max(1, engine.cache.most_pages)
        )
        self._forwards = Counter(
            "nldc:forwards",
            "Forwards that sequences had a part in.",
            LABELS,
            registry=self.registry,
        ).labels(*self._labels)
        self._steps = Counter(
            "nldc:steps", "Steps of the engine.", (*LABELS, "strategy"), registry=self.registry
        )
        self._forwards_seen = self._tokens_seen = 0
        Gauge(
            "nldc:forwards_per_token",
            "Forwards a token of an answer, since the server began.",
            LABELS,
            registry=self.registry,
        ).labels(*self._labels).set_function(
            lambda: self._forwards_seen / max(1, self._tokens_seen)
        )

    def _counter(self, name: str, text: str) -> Counter:
        found = Counter(f"vllm:{name}", text, LABELS, registry=self.registry)
        return found.labels(*self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, LABELS, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        found = Histogram(f"vllm:{name}", text, LABELS, registry=self.registry, buckets=buckets)
        return found.labels(*self._labels)

    def step(self, record: StepRecord, parts: Sequence[Took]) -> None:
        """Count a step of the engine."""
        self._steps.labels(*self._labels, record.strategy).inc()
        for took in parts:
            self._forwards.inc(took.forwards)
            self._forwards_seen += took.forwards
            if not took.drafted:
                continue
            self.drafts.inc()
            self.drafted.inc(took.drafted)
            self.accepted.inc(took.accepted)
            for position in range(took.accepted):
                self._by_position.labels(*self._labels, str(position)).inc()

    def tokens(self, count: int, since: float | None, waited: float) -> None:
        """Count tokens of a sequence: the first ones since its arrival, others `since` the last."""
        if not count:
            return
        self.generation_tokens.inc(count)
        self._tokens_seen += count
        if since is None:
            self.first_token.observe(waited)
            return
        for _ in range(count):
            self.gap.observe(since / count)

    def ended(self, reason: str, seconds: float) -> None:
        """Count the end of a sequence."""
        self._success.labels(*self._labels, reason).inc()
        self.latency.observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
