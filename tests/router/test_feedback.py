"""Which requests are audited, and a router replica's weights while the store comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from ensemble.errors import ConfigError, FeedbackUnavailableError
from ensemble.router.feedback import (
    Audit,
    AuditChoice,
    Feedback,
    FeedbackPolicy,
    OnlineWeights,
    apply_factors,
    build_audit,
)
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from tests.fakes.feedback_store import FakeFeedbackStore

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=0.1, max_shift=1.0)
RIGHT = Feedback(request_id="r1", ensemble="default", answer="yes", is_choice=True)
SOON_S = 0.001


def audit(request_id: str = "r1") -> Audit:
    """Make an audit on which ann was right if the answer is yes."""
    choices = {"ann": "yes", "bob": "no"}
    return Audit(request_id=request_id, ensemble="default", choices=("yes", "no"), choice_by_member=choices)


async def until(is_so: Callable[[], bool]) -> None:
    """Let the other tasks run until it is so."""
    async with asyncio.timeout(30):
        while True:
            if is_so():
                return
            await asyncio.sleep(SOON_S)


@pytest.fixture
def store() -> FakeFeedbackStore:
    return FakeFeedbackStore(policy_by_ensemble={"default": POLICY})


@pytest.fixture
async def weights(store: FakeFeedbackStore) -> AsyncIterator[OnlineWeights]:
    online = OnlineWeights(store, {"default": POLICY}, secret="s", refresh_s=SOON_S, max_queued=2)  # noqa: S106
    await online.start()
    yield online
    store.takes_audits.set()
    await online.stop(grace_s=5.0)


def test_the_share_of_audited_requests_is_the_wanted_one() -> None:
    choice = AuditChoice("secret")

    num_audited = sum(choice.is_audited(f"request-{n}", share=0.05) for n in range(20_000))

    # Five standard deviations of a binomial.
    assert abs(num_audited - 1_000) < 5 * (20_000 * 0.05 * 0.95) ** 0.5


def test_replicas_with_one_secret_choose_alike_and_without_it_nobody_can_tell() -> None:
    names = [f"request-{n}" for n in range(2_000)]

    first, second, stranger = (
        [choice.is_audited(name, share=0.5) for name in names]
        for choice in (AuditChoice("secret"), AuditChoice("secret"), AuditChoice("guess"))
    )

    assert first == second
    assert 850 < sum(one == other for one, other in zip(first, stranger, strict=True)) < 1_150


@pytest.mark.parametrize("share", [0, 1])
def test_no_share_audits_nothing_and_the_whole_everything(share: int) -> None:
    choice = AuditChoice("secret")

    num_audited = sum(choice.is_audited(f"request-{n}", share=share) for n in range(1_000))

    assert num_audited == 1_000 * share


def test_an_ensemble_without_a_policy_is_never_audited_and_has_no_factors(store: FakeFeedbackStore) -> None:
    online = OnlineWeights(store, {}, secret="s")  # noqa: S106

    assert not online.is_audited("r1", "default")
    assert not online.takes_feedback("default")
    assert online.factors("default") == {}


async def test_feedback_for_an_ensemble_without_a_policy_is_refused(weights: OnlineWeights) -> None:
    feedback = Feedback(request_id="r1", ensemble="other", answer="yes", is_choice=True)

    with pytest.raises(ConfigError, match="takes no feedback"):
        await weights.give(feedback)


def test_an_audit_has_the_choices_of_those_who_voted() -> None:
    votes: list[Vote] = [
        Ballot(member="ann", choice="yes"),
        Abstention(member="bob", reason=AbstentionReason.DEADLINE),
        Ballot(member="cat", text="no choice could be read"),
    ]

    built = build_audit(votes, request_id="r1", ensemble="default", choices=("yes", "no"))

    assert built.choice_by_member == {"ann": "yes"}


def test_factors_multiply_weights_and_keep_their_sign() -> None:
    panel = (Voter(member="ann", family="a", weight=2.0), Voter(member="bob", family="b", weight=-1.0))

    weighed = apply_factors(panel, {"ann": 0.5, "bob": 2.0})

    assert [voter.weight for voter in weighed] == [1.0, -2.0]
    assert apply_factors(panel, {}) is panel
    assert apply_factors(panel, {"ann": 3.0})[1] == panel[1]


async def test_what_one_router_is_told_another_weighs_with(store: FakeFeedbackStore, weights: OnlineWeights) -> None:
    other = OnlineWeights(store, {"default": POLICY}, secret="s", refresh_s=SOON_S)  # noqa: S106
    await other.start()

    weights.report(audit())
    outcome = await weights.give(RIGHT)
    await until(lambda: other.factors("default").get("ann", 1.0) > 1.0)

    assert outcome.accepted
    assert other.factors("default") == store.book.factors("default", max_shift=1.0)
    await other.stop(grace_s=0.0)


async def test_a_router_starts_with_what_was_learned_before(store: FakeFeedbackStore) -> None:
    await store.record_audit(audit())
    await store.give(RIGHT)
    online = OnlineWeights(store, {"default": POLICY}, secret="s", refresh_s=600.0)  # noqa: S106

    await online.start()

    assert online.factors("default")["ann"] > 1.0
    await online.stop(grace_s=0.0)


async def test_feedback_waits_a_moment_for_an_audit_on_its_way(
    store: FakeFeedbackStore, weights: OnlineWeights
) -> None:
    store.takes_audits.clear()
    weights.report(audit())

    async with asyncio.TaskGroup() as group:
        giving = group.create_task(weights.give(RIGHT))
        await asyncio.sleep(SOON_S)
        store.takes_audits.set()

    assert giving.result().accepted


async def test_a_store_that_is_away_leaves_the_last_weights_and_is_asked_again(
    store: FakeFeedbackStore, weights: OnlineWeights
) -> None:
    await store.record_audit(audit())
    await store.give(RIGHT)
    await until(lambda: bool(weights.factors("default")))
    before = weights.factors("default")

    store.is_away = True
    num_calls = store.num_weights_calls
    await until(lambda: store.num_weights_calls > num_calls + 1)
    while_away = weights.factors("default")
    with pytest.raises(FeedbackUnavailableError):
        await weights.give(RIGHT)

    assert while_away == before
    await weights.check_health()
    store.is_away = False
    await store.record_audit(audit("r2"))
    await weights.give(Feedback(request_id="r2", ensemble="default", answer="no", is_choice=True))
    await until(lambda: weights.factors("default")["ann"] == 1.0)


async def test_audits_over_the_queues_length_are_dropped_and_counted_and_nobody_waits(
    store: FakeFeedbackStore, weights: OnlineWeights
) -> None:
    store.takes_audits.clear()

    for n in range(5):
        weights.report(audit(f"r{n}"))

    # The queue holds two, and the task that empties it did not run in between.
    assert weights.num_dropped == 3


async def test_audits_that_a_store_does_not_take_are_counted(store: FakeFeedbackStore, weights: OnlineWeights) -> None:
    store.is_away = True

    weights.report(audit())
    await until(lambda: weights.num_dropped == 1)

    assert store.audits == []


async def test_an_audit_that_the_store_refuses_is_counted_and_the_next_one_arrives(
    store: FakeFeedbackStore, weights: OnlineWeights
) -> None:
    weights.report(audit("\ud800"))
    weights.report(audit("r2"))

    await until(lambda: weights.num_dropped == 1 and "r2" in [told.request_id for told in store.audits])

    await weights.check_health()


async def test_stop_tells_the_audits_that_wait(store: FakeFeedbackStore, weights: OnlineWeights) -> None:
    weights.report(audit("r1"))
    weights.report(audit("r2"))

    await weights.stop(grace_s=5.0)

    assert [told.request_id for told in store.audits] == ["r1", "r2"]
    assert weights.num_dropped == 0


async def test_stop_does_not_wait_longer_than_its_grace_and_counts_what_is_lost(
    store: FakeFeedbackStore, weights: OnlineWeights
) -> None:
    store.takes_audits.clear()
    weights.report(audit("r1"))
    weights.report(audit("r2"))

    await weights.stop(grace_s=0.01)

    assert store.audits == []
    assert weights.num_dropped == 2


async def test_a_task_that_ended_makes_the_replica_unhealthy(
    weights: OnlineWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_store: FakeFeedbackStore, _ensemble: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeFeedbackStore, "weights", broken)
    await asyncio.wait(weights._tasks, return_when=asyncio.FIRST_COMPLETED)

    with pytest.raises(ZeroDivisionError):
        await weights.check_health()
