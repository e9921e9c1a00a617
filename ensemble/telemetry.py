"""Names of metrics; nothing else invents one."""

from __future__ import annotations

METRIC_REQUESTS = "ensemble_requests_total"
"""Decided requests; tags: ensemble, strategy, decided_by."""
METRIC_FAILURES = "ensemble_failures_total"
"""Requests without a decision; tags: ensemble, error."""
METRIC_LATENCY = "ensemble_request_latency_ms"
"""From request to decision; tags: ensemble, strategy."""
METRIC_BALLOTS = "ensemble_ballots_total"
"""Ballots that were counted; tags: ensemble, member."""
METRIC_ABSTENTIONS = "ensemble_abstentions_total"
"""Members without a ballot; tags: ensemble, member, reason. The reason ``cancelled`` counts what early stop saved."""
METRIC_TOKENS = "ensemble_completion_tokens_total"
"""Completion tokens of counted ballots; tags: ensemble, member."""
METRIC_DEGRADED = "ensemble_degraded_total"
"""Decisions with too little weight or too few families; tags: ensemble."""

LATENCY_BOUNDARIES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
