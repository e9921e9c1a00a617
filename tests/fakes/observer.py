"""An observer that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ensemble.voting.decision import Decision


@dataclass(slots=True, kw_only=True)
class FakeObserver:
    """An Observer whose figures tests read."""

    decisions: list[tuple[str, Decision]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def observe_decision(self, ensemble: str, decision: Decision, *, latency_s: float) -> None:
        """Remember a decided request."""
        self.decisions.append((ensemble, decision))
        self.latencies_s.append(latency_s)

    def observe_failure(self, ensemble: str, error: str) -> None:
        """Remember a request without a decision."""
        self.failures.append((ensemble, error))
