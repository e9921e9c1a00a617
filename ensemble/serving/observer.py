"""The router's figures as Ray Serve metrics (Prometheus)."""

from __future__ import annotations

import collections

from ray.serve import metrics

from ensemble import telemetry
from ensemble.voting.decision import Decision

MAX_UNTOLD = 1_000
"""Requests after which figures are told in any case."""


class ServeObserver:
    """An Observer that counts; made inside a replica.

    Ray's metrics cost tens of microseconds a figure, and a request has a dozen: they are told in batches, by
    ``flush``, which whoever owns the observer calls every few seconds.
    """

    def __init__(self) -> None:
        self._latencies_ms: list[tuple[tuple[str, str], float]] = []
        self._requests = _Counter(telemetry.METRIC_REQUESTS, "Decided requests.", "strategy", "decided_by")
        self._failures = _Counter(telemetry.METRIC_FAILURES, "Requests without a decision.", "error")
        self._ballots = _Counter(telemetry.METRIC_BALLOTS, "Ballots that were counted.", "member")
        self._abstentions = _Counter(telemetry.METRIC_ABSTENTIONS, "Members without a ballot.", "member", "reason")
        self._tokens = _Counter(telemetry.METRIC_TOKENS, "Completion tokens of counted ballots.", "member")
        self._degraded = _Counter(telemetry.METRIC_DEGRADED, "Decisions below the quorum.")
        self._latency = metrics.Histogram(
            telemetry.METRIC_LATENCY,
            "From request to decision, in milliseconds.",
            boundaries=list(telemetry.LATENCY_BOUNDARIES_MS),
            tag_keys=("ensemble", "strategy"),  # type: ignore[arg-type]  # Ray's annotation says one key
        )

    def observe_decision(self, ensemble: str, decision: Decision, *, latency_s: float) -> None:
        """Count a decided request."""
        self._requests.add(1, ensemble, decision.strategy, decision.decided_by.value)
        self._latencies_ms.append(((ensemble, decision.strategy), latency_s * 1_000))
        for ballot in decision.ballots:
            self._ballots.add(1, ensemble, ballot.member)
            self._tokens.add(ballot.completion_tokens, ensemble, ballot.member)
        for abstention in decision.abstentions:
            self._abstentions.add(1, ensemble, abstention.member, abstention.reason.value)
        self._degraded.add(decision.degraded, ensemble)
        if len(self._latencies_ms) >= MAX_UNTOLD:
            self.flush()

    def observe_failure(self, ensemble: str, error: str) -> None:
        """Count a request without a decision."""
        self._failures.add(1, ensemble, error)

    def flush(self) -> None:
        """Tell Ray what was counted since the last time."""
        counters = (self._requests, self._failures, self._ballots, self._abstentions, self._tokens, self._degraded)
        for counter in counters:
            counter.flush()
        for values, latency_ms in self._latencies_ms:
            self._latency.observe(latency_ms, tags=dict(zip(("ensemble", "strategy"), values, strict=True)))
        self._latencies_ms.clear()


class _Counter:
    """A Ray counter with tags for the ensemble and more, counted here and told in one go."""

    def __init__(self, name: str, description: str, *tag_keys: str) -> None:
        self._keys = ("ensemble", *tag_keys)
        # Ray's annotation says one key; Serve adds keys of its own.
        self._counter = metrics.Counter(name, description, tag_keys=self._keys)  # type: ignore[arg-type]
        self._number_by_values: collections.Counter[tuple[str, ...]] = collections.Counter()

    def add(self, number: int, *values: str) -> None:
        """Count ``number`` more for these tags."""
        self._number_by_values[values] += number

    def flush(self) -> None:
        """Tell Ray what was counted since the last time."""
        for values, number in self._number_by_values.items():
            if number:
                self._counter.inc(number, tags=dict(zip(self._keys, values, strict=True)))
        self._number_by_values.clear()
