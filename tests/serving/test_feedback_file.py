"""Feedback on disk: there when it is acknowledged, there after a restart, and never half there."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import stat
import threading
from pathlib import Path

import pytest

from ensemble.router.feedback import Audit, Feedback, FeedbackPolicy
from ensemble.router.feedback_book import AuditedRequest, FeedbackBook
from ensemble.serving import feedback_file
from ensemble.serving.feedback_file import DurableFeedback, dump_book, load_book, replace_file

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=0.1, max_shift=1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "shop.feedback.json"


def audit(request_id: str) -> Audit:
    choices = {"ann": "yes", "bob": "no"}
    return Audit(request_id=request_id, ensemble="default", choices=("yes", "no"), choice_by_member=choices)


def feedback(request_id: str, answer: str = "yes") -> Feedback:
    return Feedback(request_id=request_id, ensemble="default", answer=answer, is_choice=True)


def open_feedback(path: Path) -> DurableFeedback:
    """Open it as a restarted process would, with writes as often as they come."""
    return DurableFeedback(path, min_write_period_s=0.0, audit_delay_s=0.0)


def filled_book() -> FeedbackBook:
    """Make a book with an audit that waits, a short answer that does, and one that had its feedback."""
    book = FeedbackBook()
    for n in range(2):
        book.record_audit(audit(f"r{n}"), now_s=float(n))
    short = Audit(request_id="r2", ensemble="other", choice_by_member={"ann": "paris"})
    book.record_audit(short, now_s=2.0)
    book.give(feedback("r0"), POLICY, now_s=3.0)
    return book


def test_a_book_is_read_as_it_was_written(path: Path) -> None:
    book = filled_book()
    path.parent.mkdir()

    replace_file(path, dump_book(book))

    assert load_book(path).ledger_by_ensemble == book.ledger_by_ensemble


def test_a_book_with_odd_texts_is_read_as_it_was_written(path: Path) -> None:
    book = FeedbackBook()
    odd = "\ud800"
    said = {"ann": odd, 'b"o\\b': "no"}
    book.record_audit(Audit(request_id="r1", ensemble="default", choices=(odd, "no"), choice_by_member=said), now_s=0.0)
    book.record_audit(Audit(request_id="\u2028", ensemble="\U0001f600", choice_by_member=said), now_s=0.0)
    path.parent.mkdir()

    replace_file(path, dump_book(book))

    assert load_book(path).ledger_by_ensemble == book.ledger_by_ensemble


def test_the_largest_file_is_as_large_as_is_said() -> None:
    members = [f"{n}{'m' * 62}" for n in range(8)]
    choices = tuple(f"{n} {'x' * 1_000}" for n in range(64))
    book = FeedbackBook()
    for n in range(100):
        request_id = f"{n:04d}{'r' * 124}"
        said = dict.fromkeys(members, choices[0])
        audit = Audit(request_id=request_id, ensemble="e", choices=choices, choice_by_member=said)
        book.record_audit(audit, now_s=1.8e9 + n / 7)

    content = dump_book(book)

    # 10,000 requests are a hundred times as many.
    assert len(content) * 100 < 22_000_000


async def test_the_book_is_put_into_bytes_beside_the_event_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    dump = feedback_file.dump_book

    def dump_and_tell(book: FeedbackBook) -> bytes:
        threads.append(threading.get_ident())
        return dump(book)

    monkeypatch.setattr(feedback_file, "dump_book", dump_and_tell)
    kept = open_feedback(path)
    await kept.record_audit(audit("r1"))

    await kept.flush()

    assert threads
    assert threading.get_ident() not in threads


def test_a_file_has_one_owner_and_the_next_waits_for_its_end(path: Path) -> None:
    first = feedback_file.own_file(path)

    with pytest.raises(BlockingIOError):
        feedback_file.own_file(path, timeout_s=0.0)
    os.close(first)

    os.close(feedback_file.own_file(path, timeout_s=0.0))


def test_no_file_is_an_empty_book(path: Path) -> None:
    assert load_book(path).ledger_by_ensemble == {}


async def test_what_was_acknowledged_is_there_after_a_crash(path: Path) -> None:
    before = open_feedback(path)
    names = ("r1", "r2", "r3")
    for name in names:
        await before.record_audit(audit(name))
    await before.flush()
    outcomes = [await before.give(feedback(name), POLICY) for name in names]

    after = open_feedback(path)  # and the first is never closed

    assert all(outcome.accepted for outcome in outcomes)
    weights = await after.weights("default", 1.0)
    assert weights == await before.weights("default", 1.0)
    assert weights == pytest.approx({"ann": math.exp(0.15), "bob": math.exp(-0.15)})
    assert [(await after.give(feedback(name, "no"), POLICY)).already_known for name in names] == [True] * 3


async def test_feedbacks_that_come_together_share_a_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []

    def replace_and_count(path: Path, content: bytes) -> None:
        writes.append(content)
        replace_file(path, content)

    monkeypatch.setattr(feedback_file, "replace_file", replace_and_count)
    kept = DurableFeedback(path, audit_delay_s=600.0)
    for n in range(50):
        await kept.record_audit(audit(f"r{n}"))

    async with asyncio.TaskGroup() as group:
        for n in range(50):
            group.create_task(kept.give(feedback(f"r{n}"), POLICY))

    # All fifty ran before the first write began; a slower loop may need one more.
    assert len(writes) <= 2
    assert sum(request.audit is None for request in _requests(path)) == 50


async def test_a_disk_that_takes_nothing_acknowledges_nothing_and_a_repeat_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    kept = DurableFeedback(path, min_write_period_s=0.0, audit_delay_s=600.0)
    await kept.record_audit(audit("r1"))
    with monkeypatch.context() as patch:
        patch.setattr(feedback_file, "replace_file", full)
        with pytest.raises(OSError, match="No space"):
            await kept.give(feedback("r1"), POLICY)
        with pytest.raises(OSError, match="No space"):
            await kept.give(feedback("r1"), POLICY)

    outcome = await kept.give(feedback("r1"), POLICY)

    assert outcome.already_known
    assert (await open_feedback(path).give(feedback("r1"), POLICY)).already_known


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:-1],
        lambda content: content.replace(b"ann", b"eve"),
        lambda content: b"\x00" * len(content),
        lambda content: content + b" ",
    ],
    ids=["empty", "cut short", "changed", "zeros", "longer"],
)
def test_a_damaged_file_is_set_aside_and_the_log_says_so(
    path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    damaged = damage(dump_book(filled_book()))
    path.parent.mkdir()
    path.write_bytes(damaged)

    with caplog.at_level(logging.ERROR):
        book = load_book(path)

    assert book.ledger_by_ensemble == {}
    (aside,) = path.parent.iterdir()
    assert aside.read_bytes() == damaged
    assert str(aside) in caplog.text


def test_a_file_of_a_later_version_is_set_aside_and_not_overwritten(path: Path) -> None:
    body = b'{"version":2,"ledger_by_ensemble":{}}'
    path.parent.mkdir()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    load_book(path)

    (aside,) = path.parent.iterdir()
    assert aside.read_bytes().endswith(body)


def test_a_write_that_is_cut_off_leaves_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    path.parent.mkdir()
    replace_file(path, b"old")
    monkeypatch.setattr(os, "fsync", broken)

    with pytest.raises(OSError, match="Input/output"):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"


def test_only_the_owner_reads_the_file(path: Path) -> None:
    path.parent.mkdir()

    replace_file(path, b"content")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(OSError, match="file"):
        DurableFeedback(tmp_path / "file" / "shop.feedback.json")


def _requests(path: Path) -> list[AuditedRequest]:
    return list(load_book(path).ledger_by_ensemble["default"].request_by_id.values())
