"""The store as router replicas use it: one actor, killed and restarted, and never a feedback lost or counted twice."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.util import list_named_actors

from ensemble import __version__
from ensemble.errors import FeedbackUnavailableError, InvalidRequestError
from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.router.feedback_book import FeedbackBook
from ensemble.serving.feedback_file import dump_book, own_file, replace_file
from ensemble.serving.feedback_store import FeedbackKeeper, ServeFeedbackStore, end_keepers, keeper_name, list_keepers
from ensemble.serving.namespace import NAMESPACE

pytestmark = pytest.mark.ray

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=0.1, max_shift=10.0)
GENEROUS_S = 120.0
ROOT = Path(__file__).parents[2]
KNOWN = FeedbackOutcome(accepted=False, was_audited=True, already_known=True)


def audit(request_id: str) -> Audit:
    choices = {"ann": "yes", "bob": "no"}
    return Audit(request_id=request_id, ensemble="default", choices=("yes", "no"), choice_by_member=choices)


def feedback(request_id: str, answer: str = "yes") -> Feedback:
    return Feedback(request_id=request_id, ensemble="default", answer=answer, is_choice=True)


def open_store(folder: Path, *, timeout_s: float = GENEROUS_S) -> ServeFeedbackStore:
    return ServeFeedbackStore("shop", folder, {"default": POLICY}, timeout_s=timeout_s)


class Replica:
    """A process with a store of its own, as a router replica has."""

    def __init__(self, folder: Path) -> None:
        self._store = open_store(folder)

    async def learn(self, request_id: str) -> FeedbackOutcome:
        """Audit a request, and take its feedback."""
        await self._store.record_audit(audit(request_id))
        return await self._store.give(feedback(request_id))

    async def weights(self) -> dict[str, float]:
        """Read the weights."""
        return dict(await self._store.weights("default"))


def keeper_process(folder: Path) -> psutil.Process:
    """Find the process that the keeper runs in now."""
    keeper: Any = ray.get_actor(keeper_name("shop", folder / "shop.feedback.json"), namespace=NAMESPACE)
    pid: Any = ray.get(keeper.__ray_call__.remote(lambda _self: __import__("os").getpid()), timeout=GENEROUS_S)
    return psutil.Process(pid)


@pytest.fixture
def folder(cluster: None, tmp_path: Path) -> Iterator[Path]:  # noqa: ARG001 - it must run
    yield tmp_path
    end_keepers("shop")


async def test_what_one_replica_is_told_another_knows_and_a_killed_keeper_forgets_nothing(folder: Path) -> None:
    replica: Any = ray.remote(num_cpus=0)(Replica)
    first, second = (replica.remote(folder) for _ in range(2))

    outcome = await first.learn.remote("r1")
    weights = await second.weights.remote()
    victim = keeper_process(folder)
    victim.kill()
    weights_after = await second.weights.remote()
    repeated = await second.learn.remote("r1")

    assert outcome == FeedbackOutcome(accepted=True, was_audited=True, already_known=False)
    assert weights["ann"] > 1.0 > weights["bob"]
    assert weights_after == weights
    assert repeated == KNOWN
    assert keeper_process(folder).pid != victim.pid


async def test_feedback_given_while_the_keeper_is_killed_counts_once(folder: Path) -> None:
    store = open_store(folder)
    names = [f"r{n}" for n in range(20)]
    for name in names:
        await store.record_audit(audit(name))
    await store.give(feedback(names[0]))  # on disk with all the audits
    victim = keeper_process(folder)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.give(feedback(name))) for name in names[1:]]
        await asyncio.sleep(0)
        victim.kill()
    repeated = [await store.give(feedback(name)) for name in names]
    weights = await store.weights("default")

    assert all(task.result().accepted or task.result().already_known for task in tasks)
    assert repeated == [KNOWN] * 20
    # Each moved her by half the learning rate: the other half is the mean loss.
    assert weights["ann"] == pytest.approx(math.exp(20 * 0.05))


async def test_errors_keep_their_facts_on_the_way_from_the_keeper(folder: Path) -> None:
    store = open_store(folder)
    await store.record_audit(audit("r1"))

    with pytest.raises(InvalidRequestError) as caught:
        await store.give(feedback("r1", "maybe"))

    assert type(caught.value) is InvalidRequestError
    assert caught.value.field == "answer.choice"


async def test_a_keeper_that_does_not_answer_in_time_is_unavailable(folder: Path) -> None:
    open_store(folder)
    victim = keeper_process(folder)
    victim.suspend()

    try:
        with pytest.raises(FeedbackUnavailableError, match=r"within 0\.2 s"):
            await open_store(folder, timeout_s=0.2).weights("default")
    finally:
        victim.resume()


async def test_a_folder_that_cannot_be_used_is_told_and_works_once_it_is_mended(folder: Path) -> None:
    blocked = folder / "blocked"
    blocked.write_text("not a folder")
    store = open_store(blocked)

    with pytest.raises(FeedbackUnavailableError, match="blocked"):
        await store.weights("default")
    blocked.unlink()
    async with asyncio.timeout(GENEROUS_S):
        while True:
            try:
                weights = await store.weights("default")
            except FeedbackUnavailableError:
                await asyncio.sleep(0.1)
            else:
                break

    assert weights == {}


async def test_another_cluster_has_the_weights_that_the_first_one_learned(folder: Path) -> None:
    learned = run_cluster(folder, "r1")

    store = open_store(folder)
    weights = await store.weights("default")
    await store.record_audit(audit("r1"))
    repeated = await store.give(feedback("r1", "no"))

    assert learned["accepted"]
    assert weights == learned["weights"]
    assert weights["ann"] > 1.0
    assert repeated == KNOWN
    assert await store.weights("default") == weights


def start_keeper(name: str, folder: Path) -> Any:
    """Start a keeper as another deployment would."""
    return FeedbackKeeper.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(str(folder / "shop.feedback.json"))


def test_a_keepers_name_tells_the_version_and_the_folder(tmp_path: Path) -> None:
    names = {
        keeper_name("shop", tmp_path / folder, version=version) for folder in ("a", "b") for version in ("1.0", "1-0")
    }

    assert len(names) == 4
    assert __version__ in keeper_name("shop", tmp_path)


async def test_a_keeper_of_another_version_is_ended_and_its_feedback_stays(folder: Path) -> None:
    path = folder / "shop.feedback.json"
    old = start_keeper(keeper_name("shop", path, version="0.0.1"), folder)
    await old.record_audit.remote(audit("r1"))
    await old.give.remote(feedback("r1"), POLICY)

    store = open_store(folder)
    repeated = await store.give(feedback("r1"))

    assert repeated == KNOWN
    assert list_keepers("shop") == (keeper_name("shop", path),)
    with pytest.raises(ActorDiedError):
        await old.weights.remote("default", 1.0)


async def test_a_keeper_reads_nothing_before_the_files_other_owner_has_ended(folder: Path) -> None:
    path = folder / "shop.feedback.json"
    owner = own_file(path)
    waiting = asyncio.create_task(open_store(folder).weights("default"))
    await asyncio.wait({waiting}, timeout=3.0)  # a keeper that does not wait has answered by then
    book = FeedbackBook()
    book.record_audit(audit("r1"), now_s=time.time())
    book.give(feedback("r1"), POLICY, now_s=time.time())

    replace_file(path, dump_book(book))
    os.close(owner)

    assert (await waiting)["ann"] > 1.0


async def refusal_of(store: ServeFeedbackStore) -> str:
    """Ask until the end of its keeper, for which nobody waits, is felt; gives what is said then."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            try:
                await store.weights("default")
            except FeedbackUnavailableError as error:
                return str(error)


async def test_a_store_of_an_older_deployment_leaves_the_newer_keeper_alone(folder: Path) -> None:
    older = open_store(folder / "old")
    await older.weights("default")
    newer = open_store(folder)

    assert "another deployment" in await refusal_of(older)

    assert await newer.weights("default") == {}
    assert list_keepers("shop") == (keeper_name("shop", folder / "shop.feedback.json"),)


async def test_once_the_other_deployments_keeper_is_gone_a_store_starts_its_own_again(folder: Path) -> None:
    wanted = open_store(folder)
    await wanted.weights("default")
    open_store(folder / "old")  # an old replica that was restarted while the new ones came up
    assert "another deployment" in await refusal_of(wanted)

    end_keepers("shop", keep=keeper_name("shop", folder / "shop.feedback.json"))
    async with asyncio.timeout(GENEROUS_S):
        with pytest.raises(FeedbackUnavailableError, match="died"):
            await wanted.weights("default")

    assert await wanted.weights("default") == {}


async def test_the_end_of_an_applications_keepers_leaves_other_actors_alone(folder: Path) -> None:
    open_store(folder)
    ours = keeper_name("shop", folder / "shop.feedback.json")
    unversioned = "shop-feedback-0123abcd"
    others = ("my-shop-feedback-0.1.0-0123abcd", "shop-feedback-1-feedback-0.1.0-0123abcd", "shop-secret")
    start_keeper(unversioned, folder / "unversioned")
    kept = [start_keeper(name, folder / name) for name in others]

    ended = end_keepers("shop")

    named = {actor["name"] for actor in list_named_actors(all_namespaces=True)}
    assert sorted(ended) == sorted((ours, unversioned))
    assert list_keepers("shop") == ()
    assert named >= set(others)
    for keeper in kept:
        ray.kill(keeper)


def run_cluster(folder: Path, request_id: str) -> dict[str, Any]:
    """Run a cluster in another process, since this one has its own, and end it."""
    command = [sys.executable, "-m", "tests.serving.feedback_run", str(folder), request_id]
    run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=240)  # noqa: S603 - our own
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told
