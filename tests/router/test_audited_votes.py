"""Requests that are audited, and weights that were learned from feedback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from ensemble.errors import ConfigError, InvalidRequestError, UnknownNameError
from ensemble.router.feedback import Audit, Feedback, FeedbackPolicy, OnlineWeights
from ensemble.router.request import VoteOptions
from ensemble.voting.asking import AskPlan
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.decision import DecidedBy
from ensemble.voting.record import VoteRecord
from ensemble.voting.strategy import Certificate
from tests.fakes.feedback_store import FakeFeedbackStore
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import (
    LONG_S,
    NO,
    YES,
    RouterUnderTest,
    ask_for_text,
    ask_yes_or_no,
    build_ensemble,
    hear_all,
)

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=1.0, max_shift=1.0)
NEVER = FeedbackPolicy(audit_share=0.0, learning_rate=1.0, max_shift=1.0)
PLAN = AskPlan(stages=(("a", "b"), ("c",)), rule="cascade")


def yes_yes_no() -> dict[str, FakeMemberClient]:
    """Make members that decide for yes before the third one says no."""
    answers = {"a": YES, "b": YES, "c": NO}
    return {name: FakeMemberClient(probabilities=answer) for name, answer in answers.items()}


class Learning:
    """Routers that share one store of feedback."""

    def __init__(self) -> None:
        self.store = FakeFeedbackStore(policy_by_ensemble={"default": POLICY})
        self._online: list[OnlineWeights] = []

    async def router(
        self, clients: Mapping[str, FakeMemberClient], policy: FeedbackPolicy = POLICY, **ensemble: object
    ) -> RouterUnderTest:
        """Put the clients behind a router with fresh weights."""
        online = OnlineWeights(self.store, {"default": policy}, secret="s")  # noqa: S106 - of these tests
        await online.start()
        self._online.append(online)
        return RouterUnderTest(
            clients=clients,
            ensemble=build_ensemble(list(clients), **ensemble),  # type: ignore[arg-type]
            online=online,
        )

    async def settle(self) -> None:
        """Let the audits reach the store."""
        for online in self._online:
            await online.stop(grace_s=LONG_S)
        self._online.clear()


@pytest.fixture
async def learning() -> AsyncIterator[Learning]:
    system = Learning()
    yield system
    await system.settle()


async def test_an_audited_request_waits_for_everyone_and_is_told_to_the_store(learning: Learning) -> None:
    system = await learning.router(yes_yes_no(), plan=PLAN)

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)
    await learning.settle()

    assert (decision.decided_by, decision.num_asked) == (DecidedBy.ALL, 3)
    (audit,) = learning.store.audits
    assert (audit.request_id, audit.ensemble, audit.choices) == ("r", "default", ("yes", "no"))
    assert audit.choice_by_member == {"a": "yes", "b": "yes", "c": "no"}


async def test_an_audit_of_short_answers_has_them_as_they_were_counted(learning: Learning) -> None:
    clients = {name: FakeMemberClient(text=text) for name, text in zip("abc", ["Four.", "5", " "], strict=True)}
    system = await learning.router(clients)

    await system.build().generate(ask_for_text(), timeout_s=LONG_S)
    await learning.settle()

    assert [(audit.choices, sorted(audit.choice_by_member)) for audit in learning.store.audits] == [((), ["a", "b"])]


@pytest.mark.parametrize(
    "options",
    [VoteOptions(panel=("a", "b")), VoteOptions(ignore_calibration=True)],
    ids=["part of the panel", "raw"],
)
async def test_requests_that_depart_from_the_ensemble_are_not_audited(options: VoteOptions, learning: Learning) -> None:
    system = await learning.router(yes_yes_no())

    await system.build().classify(ask_yes_or_no(options), timeout_s=LONG_S)
    await learning.settle()

    assert learning.store.audits == []


async def test_requests_that_are_not_chosen_stop_early_as_ever(learning: Learning) -> None:
    system = await learning.router(yes_yes_no(), policy=NEVER, plan=PLAN)

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.num_asked == 2


async def test_feedback_on_an_audit_moves_the_weights_of_later_requests(learning: Learning) -> None:
    first = await learning.router(yes_yes_no())
    router = first.build()
    await router.classify(ask_yes_or_no(), timeout_s=LONG_S)
    right = Feedback(request_id="r", ensemble="", answer="no", is_choice=True)

    outcome = await router.give_feedback(right)
    again = await router.give_feedback(right)
    later = (await learning.router(yes_yes_no())).build()
    events = await hear_all(later.stream_classify(ask_yes_or_no(VoteOptions(include_record=True)), timeout_s=LONG_S))

    assert (outcome.accepted, again.accepted, again.already_known) == (True, False, True)
    record = events[-2]
    assert isinstance(record, VoteRecord)
    weights = {voter.member: voter.weight for voter in record.question.panel}
    assert weights["c"] > weights["a"] == weights["b"]


def build_sure_calibration() -> EnsembleCalibration:
    """Give a calibration in which a's ballot alone may end the vote."""
    certificate = Certificate(
        backers=frozenset("a"), others=frozenset(), min_margin=0.0, num_items=300, num_disagreements=0, bound=0.01
    )
    fitted = StrategyCalibration(
        weight_by_member=dict.fromkeys("abc", 1.0),
        kappa=1.0,
        withhold_below=0.99,
        conformal_threshold=0.5,
        certificates=(certificate,),
    )
    return EnsembleCalibration(
        digest="d",
        by_member=dict.fromkeys("abc", MemberCalibration()),
        by_strategy={"weighted_vote": fitted},
    )


async def learn(learning: Learning, *, choice_by_member: dict[str, str], answer: str) -> None:
    choices = ("yes", "no")
    audit = Audit(request_id="r0", ensemble="default", choices=choices, choice_by_member=choice_by_member)
    await learning.store.record_audit(audit)
    outcome = await learning.store.give(Feedback(request_id="r0", ensemble="default", answer=answer, is_choice=True))
    assert outcome.accepted


async def test_weights_that_moved_leave_certificates_label_sets_and_confidence_behind(learning: Learning) -> None:
    await learn(learning, choice_by_member={"a": "yes", "b": "yes", "c": "no"}, answer="no")
    system = await learning.router(yes_yes_no(), policy=NEVER, calibration=build_sure_calibration())

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.decided_by is not DecidedBy.RISK_QUORUM
    assert decision.label_set == ()
    assert (decision.confidence, decision.withheld) == (None, True)


async def test_a_feedback_that_moves_no_weight_changes_nothing(learning: Learning) -> None:
    await learn(learning, choice_by_member={"a": "yes", "b": "yes", "c": "yes"}, answer="yes")
    system = await learning.router(yes_yes_no(), policy=NEVER, calibration=build_sure_calibration())

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.confidence is not None
    assert decision.withheld == (decision.confidence < 0.99)


@pytest.mark.parametrize(
    ("feedback", "error"),
    [
        (Feedback(request_id="", ensemble="", answer="no", is_choice=True), InvalidRequestError),
        (Feedback(request_id="a b", ensemble="", answer="no", is_choice=True), InvalidRequestError),
        (Feedback(request_id="r" * 129, ensemble="", answer="no", is_choice=True), InvalidRequestError),
        (Feedback(request_id="r", ensemble="other", answer="no", is_choice=True), UnknownNameError),
    ],
)
async def test_bad_feedback_is_refused(feedback: Feedback, error: type[Exception], learning: Learning) -> None:
    router = (await learning.router(yes_yes_no())).build()

    with pytest.raises(error):
        await router.give_feedback(feedback)


async def test_an_ensemble_that_takes_no_feedback_says_so() -> None:
    clients = yes_yes_no()
    router = RouterUnderTest(clients=clients, ensemble=build_ensemble(list(clients))).build()

    with pytest.raises(ConfigError, match="takes no feedback"):
        await router.give_feedback(Feedback(request_id="r", ensemble="", answer="no", is_choice=True))
