"""The JSON that scripts read. Keys are only ever added."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ensemble.voting.decision import Decision

_PARAGRAPHS = (
    """With --json one object is printed, and nothing else goes to stdout: answer, strategy, decided_by (all,
    lossless_quorum, risk_quorum, stage, first_token or deadline), agreement, margin, confidence (null when not
    calibrated), withheld (the confidence is too low: the answer is a guess), label_set (choices that cannot be
    ruled out, likeliest first; empty when not calibrated), degraded, num_asked, families, candidates, ballots,
    abstentions, streamed_member (whose text alone was shown; else empty), replaces_stream (the answer is not what
    was shown).""",
    "candidates: [{answer, weight, members}], the answer first.",
    """ballots: [{member, family, choice, probabilities, text, logprob, latency_s, prompt_tokens, completion_tokens}],
    in the panel's order.""",
    """abstentions: [{member, family, reason, detail, latency_s}], in the panel's order; reason is deadline, error,
    refusal, unparseable or cancelled.""",
    "Exit codes: 0 answered, 1 the system failed, 2 the request or an option is wrong, 130 interrupted.",
)
# The terminal's width breaks the lines, so each paragraph is one.
DECISION_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


def decision_to_json(decision: Decision) -> str:
    """Write a decision with its evidence."""
    return to_json(asdict(decision))


def to_json(document: dict[str, Any]) -> str:
    """Write a document for people and programs alike."""
    # NaN and infinity are no JSON: better to fail than to print what no parser reads.
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
