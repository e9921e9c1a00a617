"""When feedback and audits are written: what comes during a write is not left out."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ensemble.router.feedback import FeedbackPolicy
from ensemble.router.feedback_book import AuditedRequest, FeedbackBook
from ensemble.serving import feedback_file
from ensemble.serving.feedback_file import DurableFeedback, load_book
from tests.serving.test_feedback_file import audit, feedback, open_feedback

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=0.1, max_shift=1.0)
GENEROUS_S = 30.0


@dataclass(frozen=True, slots=True)
class HeldWrite:
    """Holds every write up until it may go on."""

    has_begun: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, GENEROUS_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "shop.feedback.json"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldWrite:
    write = HeldWrite()
    dump = feedback_file.dump_book

    def dump_when_told(book: FeedbackBook) -> bytes:
        write.has_begun.set()
        assert write.may_go_on.wait(GENEROUS_S)
        return dump(book)

    monkeypatch.setattr(feedback_file, "dump_book", dump_when_told)
    return write


def stored(path: Path) -> dict[str, AuditedRequest]:
    """Read the requests that are on disk, by name."""
    book = load_book(path)
    return dict(book.ledger_by_ensemble["default"].request_by_id) if book.ledger_by_ensemble else {}


async def wait_until_stored(path: Path, *names: str) -> None:
    """Wait until these requests alone are on disk."""
    async with asyncio.timeout(GENEROUS_S):
        while set(stored(path)) != set(names):  # noqa: ASYNC110 - the file is all there is to go by
            await asyncio.sleep(0.001)


async def test_what_comes_while_the_book_is_written_is_written_next(path: Path, held: HeldWrite) -> None:
    kept = DurableFeedback(path, min_write_period_s=0.0, audit_delay_s=600.0)
    for name in ("r1", "r2"):
        await kept.record_audit(audit(name))

    first = asyncio.create_task(kept.give(feedback("r1"), POLICY))
    await held.wait_until_begun()
    second = asyncio.create_task(kept.give(feedback("r2"), POLICY))
    await asyncio.sleep(0)
    held.may_go_on.set()
    await first
    told_first = stored(path)["r1"].audit is None
    await second

    assert told_first
    assert [request.audit is None for request in stored(path).values()] == [True, True]


async def test_audits_are_written_though_no_feedback_comes(path: Path) -> None:
    kept = open_feedback(path)

    await kept.record_audit(audit("r1"))

    await wait_until_stored(path, "r1")


async def test_an_audit_that_comes_while_others_are_written_is_written_though_nothing_comes_after_it(
    path: Path, held: HeldWrite
) -> None:
    kept = open_feedback(path)
    await kept.record_audit(audit("r1"))
    await held.wait_until_begun()

    await kept.record_audit(audit("r2"))
    held.may_go_on.set()

    await wait_until_stored(path, "r1", "r2")
