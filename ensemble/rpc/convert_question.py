"""What is voted on, with its votes, to and from the wire."""

from __future__ import annotations

from ensemble.errors import InvalidRequestError
from ensemble.rpc.convert_vote import (
    DECIDED_BY_FROM_WIRE,
    DECIDED_BY_TO_WIRE,
    REASON_FROM_WIRE,
    abstention_from_wire,
    abstention_to_wire,
    ballot_from_wire,
    ballot_to_wire,
    voter_from_wire,
    voter_to_wire,
)
from ensemble.v1 import vote_pb2, voting_service_pb2
from ensemble.voting.ballot import Abstention, Ballot, Vote
from ensemble.voting.decision import DecidedBy
from ensemble.voting.short_answer import AnswerRule, Extract
from ensemble.voting.strategy import Certificate, Evidence, Question, Quorum, VoteCalibration

_EXTRACTIONS: dict[Extract, voting_service_pb2.AnswerExtraction.ValueType] = {
    "auto": voting_service_pb2.ANSWER_EXTRACTION_UNSPECIFIED,
    "first_line": voting_service_pb2.ANSWER_EXTRACTION_FIRST_LINE,
    "last_number": voting_service_pb2.ANSWER_EXTRACTION_LAST_NUMBER,
    "pattern": voting_service_pb2.ANSWER_EXTRACTION_PATTERN,
}
_EXTRACT_BY_WIRE = {wire: name for name, wire in _EXTRACTIONS.items()}


def decide_request_to_wire(
    strategy: str, question: Question, votes: tuple[Vote, ...], decided_by: DecidedBy
) -> voting_service_pb2.DecideRequest:
    """Make the request for the voting service."""
    families = {voter.member: voter.family for voter in question.panel}
    return voting_service_pb2.DecideRequest(
        strategy=strategy,
        panel=map(voter_to_wire, question.panel),
        choices=question.choices,
        quorum=vote_pb2.Quorum(
            min_weight=question.quorum.min_weight,
            min_families=question.quorum.min_families,
            stop_early=question.quorum.stop_early,
        ),
        answer_rule=voting_service_pb2.AnswerRule(
            extract=_EXTRACTIONS[question.answer_rule.extract], pattern=question.answer_rule.pattern
        ),
        ballots=[ballot_to_wire(vote, families[vote.member]) for vote in votes if isinstance(vote, Ballot)],
        abstentions=[abstention_to_wire(vote, families[vote.member]) for vote in votes if isinstance(vote, Abstention)],
        calibration=_calibration_to_wire(question.calibration) if question.calibration else None,
        evidence=_evidence_to_wire(question.evidence) if question.evidence else None,
        decided_by=DECIDED_BY_TO_WIRE[decided_by],
    )


def question_from_wire(wire: voting_service_pb2.DecideRequest) -> Question:
    """Read what is voted on; panel, choices, calibration and evidence are the strategy's to check.

    Raises:
        InvalidRequestError: an enum has a value that is not published.
    """
    defaults = Quorum()
    quorum = wire.quorum
    return Question(
        panel=tuple(map(voter_from_wire, wire.panel)),
        quorum=Quorum(
            min_weight=quorum.min_weight if quorum.HasField("min_weight") else defaults.min_weight,
            min_families=quorum.min_families if quorum.HasField("min_families") else defaults.min_families,
            stop_early=quorum.stop_early if quorum.HasField("stop_early") else defaults.stop_early,
        ),
        choices=tuple(wire.choices),
        answer_rule=_answer_rule_from_wire(wire.answer_rule),
        calibration=_calibration_from_wire(wire.calibration) if wire.HasField("calibration") else None,
        evidence=_evidence_from_wire(wire.evidence) if wire.HasField("evidence") else None,
    )


def votes_from_wire(wire: voting_service_pb2.DecideRequest) -> tuple[Vote, ...]:
    """Read ballots and abstentions.

    Raises:
        InvalidRequestError: an abstention has no reason.
    """
    for wire_abstention in wire.abstentions:
        if wire_abstention.reason not in REASON_FROM_WIRE:
            raise InvalidRequestError(
                "abstentions.reason", f"{wire_abstention.member!r} gives none", "say why the member abstains"
            )
    return (*map(ballot_from_wire, wire.ballots), *map(abstention_from_wire, wire.abstentions))


def decided_by_from_wire(wire: voting_service_pb2.DecideRequest) -> DecidedBy | None:
    """Read what ended the vote; None when the votes tell.

    Raises:
        InvalidRequestError: the value is not published.
    """
    if wire.decided_by == vote_pb2.DECIDED_BY_UNSPECIFIED:
        return None
    if wire.decided_by not in DECIDED_BY_FROM_WIRE:
        raise InvalidRequestError("decided_by", f"{wire.decided_by} is unknown", "use a published value")
    return DECIDED_BY_FROM_WIRE[wire.decided_by]


def _answer_rule_from_wire(wire: voting_service_pb2.AnswerRule) -> AnswerRule:
    extract = _EXTRACT_BY_WIRE.get(wire.extract)
    if extract is None:
        raise InvalidRequestError("answer_rule.extract", f"{wire.extract} is unknown", "use a published value")
    return AnswerRule(extract=extract, pattern=wire.pattern)


def _calibration_to_wire(calibration: VoteCalibration) -> voting_service_pb2.VoteCalibration:
    return voting_service_pb2.VoteCalibration(
        kappa=calibration.kappa,
        log_priors=calibration.log_priors,
        withhold_below=calibration.withhold_below,
        conformal_threshold=calibration.conformal_threshold,
        certificates=[
            voting_service_pb2.Certificate(
                backers=sorted(certificate.backers),
                others=sorted(certificate.others),
                min_margin=certificate.min_margin,
                item_count=certificate.num_items,
                disagreement_count=certificate.num_disagreements,
                bound=certificate.bound,
            )
            for certificate in calibration.certificates
        ],
        digest=calibration.digest,
    )


def _calibration_from_wire(wire: voting_service_pb2.VoteCalibration) -> VoteCalibration:
    return VoteCalibration(
        kappa=wire.kappa if wire.HasField("kappa") else None,
        log_priors=tuple(wire.log_priors),
        withhold_below=wire.withhold_below,
        conformal_threshold=wire.conformal_threshold if wire.HasField("conformal_threshold") else None,
        certificates=tuple(
            Certificate(
                backers=frozenset(certificate.backers),
                others=frozenset(certificate.others),
                min_margin=certificate.min_margin,
                num_items=certificate.item_count,
                num_disagreements=certificate.disagreement_count,
                bound=certificate.bound,
            )
            for certificate in wire.certificates
        ),
        digest=wire.digest,
    )


def _evidence_to_wire(evidence: Evidence) -> voting_service_pb2.Evidence:
    return voting_service_pb2.Evidence(
        texts=evidence.texts,
        source=evidence.source,
        embeddings=[voting_service_pb2.Embedding(values=vector) for vector in evidence.embeddings],
        scores=[
            voting_service_pb2.TextScores(member=member, logprobs=logprobs)
            for member, logprobs in sorted(evidence.logprobs_by_scorer.items())
        ],
        verdict=evidence.verdict,
        fused=evidence.fused,
    )


def _evidence_from_wire(wire: voting_service_pb2.Evidence) -> Evidence:
    return Evidence(
        texts=tuple(wire.texts),
        source=wire.source,
        embeddings=tuple(tuple(embedding.values) for embedding in wire.embeddings),
        logprobs_by_scorer={scores.member: tuple(scores.logprobs) for scores in wire.scores},
        verdict=tuple(wire.verdict),
        fused=wire.fused,
    )
