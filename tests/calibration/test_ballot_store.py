"""Votes that were stored come back as they were, survive a kill, and never mix with those of other origins."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.calibration.ballot_store import (
    BALLOTS_FILE,
    ITEMS_FILE,
    JOURNAL_FILE,
    TIMINGS_FILE,
    load_evaluation,
    open_store,
)
from ensemble.calibration.items import LabelledItem
from ensemble.calibration.manifest import EvaluationManifest
from ensemble.calibration.vote_rows import vote_from_row, vote_to_row
from ensemble.errors import ConfigError
from ensemble.voting.admission import PROBABILITY_TOLERANCE
from ensemble.voting.ballot import Abstention, Ballot, Vote
from tests.calibration.evaluations import ballot, choice_items, item_set, manifest_of, silence

ITEMS = choice_items(4)
SET = item_set(ITEMS)
TEXTS = item_set(
    [LabelledItem(item_id="t", prompt="Say it.", reference="It.")],
    name="texts",
)
MANIFEST = manifest_of(SET, TEXTS, digest="digest")


def votes_on(item: LabelledItem) -> tuple[Vote, ...]:
    if item.choices:
        return ballot("a", item, 0, sure=0.3125, latency_s=0.123), silence("b")
    text = Ballot(member="a", family="family-a", text="It\u2028 is.\n", logprob=None, completion_tokens=3)
    return text, silence("b", latency_s=1.5)


@contextmanager
def disk_full_at(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(folder: Path, *, latest_first: bool = False) -> None:
    keyed = [((one.name, item.item_id), item) for one in (SET, TEXTS) for item in one.items]
    with open_store(folder, MANIFEST, (SET, TEXTS)) as store:
        for key, item in reversed(keyed) if latest_first else keyed:
            store.add(key, votes_on(item))
        store.finish()


def test_what_was_stored_is_read_back_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path)

    stored = load_evaluation(tmp_path)

    assert stored.manifest == MANIFEST
    assert [one.name for one in stored.sets] == ["set", "texts"]
    assert [item.item for item in stored.item_votes(["set"])] == list(ITEMS)
    assert [item.votes for item in stored.item_votes()] == [votes_on(item) for item in (*ITEMS, *TEXTS.items)]


def test_the_table_of_ballots_is_the_same_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    fill(tmp_path / "other", latest_first=True)

    tables = [(tmp_path / folder / BALLOTS_FILE).read_bytes() for folder in ("one", "other")]

    assert tables[0] == tables[1]


def test_ballots_have_no_times_in_them_and_times_have_a_table_of_their_own(tmp_path: Path) -> None:
    from pyarrow import parquet  # noqa: PLC0415 - heavy

    fill(tmp_path)

    ballots, timings = (parquet.read_table(tmp_path / name) for name in (BALLOTS_FILE, TIMINGS_FILE))

    assert "latency_s" not in ballots.column_names
    assert timings.column("latency_s").to_pylist() == [0.123, 0.2] * 4 + [0.0, 1.5]
    assert ballots.num_rows == 10


def test_an_unfinished_evaluation_knows_what_it_has_and_is_not_read(tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q2"), votes_on(ITEMS[2]))

    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as again:
        missing = [again.missing(("set", item.item_id)) for item in ITEMS]

    assert missing == [("a", "b"), ("a", "b"), (), ("a", "b")]
    with pytest.raises(ConfigError, match="not finished"):
        load_evaluation(tmp_path)


@pytest.mark.parametrize("num_bytes", [1, 20, 90])
def test_a_torn_last_line_is_cut_off_and_the_journal_goes_on(num_bytes: int, tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q0"), votes_on(ITEMS[0]))
        store.add(("set", "q1"), votes_on(ITEMS[1]))
    journal = tmp_path / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-num_bytes])

    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as again:
        missing = again.missing(("set", "q1"))
        again.add(("set", "q1"), votes_on(ITEMS[1])[1:])

    assert missing == ("b",)
    lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    assert [(line["id"], line["member"]) for line in lines] == [("q0", "a"), ("q0", "b"), ("q1", "a"), ("q1", "b")]


def test_a_damaged_line_before_the_last_is_told_with_its_number(tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q0"), votes_on(ITEMS[0]))
    journal = tmp_path / JOURNAL_FILE
    journal.write_text("nonsense\n" + journal.read_text("utf-8"), "utf-8")

    with pytest.raises(ConfigError, match=r"journal\.jsonl:1: it is damaged"):
        open_store(tmp_path, MANIFEST, (SET, TEXTS))


def test_a_vote_is_never_stored_twice(tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q0"), votes_on(ITEMS[0]))

        with pytest.raises(ValueError, match="already"):
            store.add(("set", "q0"), votes_on(ITEMS[0]))


def test_failures_that_may_pass_can_be_asked_for_again(tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q0"), (silence("a"), ballot("b", ITEMS[0], 0)))
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as again:
        before = again.missing(("set", "q0"))
        num_forgotten = again.forget_failures()
        missing = again.missing(("set", "q0"))
        again.add(("set", "q0"), votes_on(ITEMS[0])[:1])
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as last:
        num_left = last.forget_failures()

    assert (before, num_forgotten, missing, num_left) == ((), 1, ("a",), 0)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL_FILE).read_text("utf-8").splitlines()]
    assert [line["member"] for line in lines] == ["a", "b", "a"]


def test_a_full_disk_is_told_in_one_sentence_and_what_fits_is_kept(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL_FILE
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        store.add(("set", "q0"), votes_on(ITEMS[0]))
        whole = journal.read_bytes()

        with disk_full_at(len(whole) + 40), pytest.raises(ConfigError, match=r"cannot be written .* make room there"):
            store.add(("set", "q1"), votes_on(ITEMS[1]))

    assert journal.read_bytes() == whole


def test_a_disk_without_room_for_the_tables_is_told_in_one_sentence(tmp_path: Path) -> None:
    with open_store(tmp_path, MANIFEST, (SET, TEXTS)) as store:
        for one in (SET, TEXTS):
            for item in one.items:
                store.add((one.name, item.item_id), votes_on(item))

        with disk_full_at(100), pytest.raises(ConfigError, match=r"cannot be written .* make room there"):
            store.finish()

    assert not (tmp_path / BALLOTS_FILE).exists()


def test_two_evaluations_cannot_write_one_folder_at_once(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, MANIFEST, (SET, TEXTS)),
        pytest.raises(ConfigError, match="another evaluation is writing it"),
    ):
        open_store(tmp_path, MANIFEST, (SET, TEXTS))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            manifest_of(item_set(ITEMS[:3]), TEXTS, digest="digest"),
            r"its data were set \(4 items, \w+\), .* and are set \(3 items",
        ),
        (manifest_of(SET, TEXTS, members=("a", "c")), "its members were a, b and are a, c"),
        (manifest_of(SET, TEXTS, fingerprint="g"), "member a was family-a f-a and is family-a g-a"),
        (manifest_of(SET, TEXTS, digest="other"), "contents of member a's checkpoint were digest and are other"),
        (MANIFEST.model_copy(update={"generation": {"max_tokens": "9"}}), "generation was"),
        (MANIFEST.model_copy(update={"made_by": "another version"}), "made_by was a test and is another version"),
    ],
)
def test_an_evaluation_of_another_origin_is_refused_with_the_facts(
    other: EvaluationManifest, told: str, tmp_path: Path
) -> None:
    fill(tmp_path)

    with pytest.raises(ConfigError, match=told):
        open_store(tmp_path, other, (SET, TEXTS))


def test_a_checkpoint_that_is_not_at_hand_is_taken_for_the_same(tmp_path: Path) -> None:
    fill(tmp_path)

    with open_store(tmp_path, manifest_of(SET, TEXTS), (SET, TEXTS)) as store:
        num_stored = store.num_stored

    assert num_stored == 5


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")

    with pytest.raises(ConfigError, match="files of something else"):
        open_store(tmp_path, MANIFEST, (SET, TEXTS))

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_that_was_killed_before_its_manifest_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ITEMS_FILE).write_text("torn", "utf-8")

    fill(tmp_path)

    assert len(load_evaluation(tmp_path).item_votes()) == 5


def test_files_of_two_evaluations_are_not_read_as_one(tmp_path: Path) -> None:
    fill(tmp_path)
    items = tmp_path / ITEMS_FILE
    items.write_text(items.read_text("utf-8").replace('"q3"', '"q7"'), "utf-8")

    with pytest.raises(ConfigError, match="damaged or of two evaluations"):
        load_evaluation(tmp_path)


def test_labels_that_were_changed_since_are_not_read(tmp_path: Path) -> None:
    fill(tmp_path)
    items = tmp_path / ITEMS_FILE
    items.write_text(items.read_text("utf-8").replace('"answer":2', '"answer":1'), "utf-8")

    with pytest.raises(ConfigError, match=r"damaged .*the items of set are not those that were asked"):
        load_evaluation(tmp_path)


def test_rounding_errors_of_two_runs_are_stored_as_one_value(tmp_path: Path) -> None:
    text = Ballot(member="a", family="family-a", text="It is.", logprob=-0.123456789)
    shaken = replace(text, logprob=-0.123456791)
    for folder, sure, told in (("one", 1 / 3, text), ("other", 1 / 3 + 1e-8, shaken)):
        with open_store(tmp_path / folder, MANIFEST, (SET, TEXTS)) as store:
            for item in ITEMS:
                store.add(("set", item.item_id), (ballot("a", item, 0, sure=sure), silence("b")))
            store.add(("texts", "t"), (told, silence("b")))
            store.finish()

    one, other = ((tmp_path / folder / BALLOTS_FILE).read_bytes() for folder in ("one", "other"))

    assert one == other
    stored = load_evaluation(tmp_path / "one").item_votes()
    assert stored[0].votes[0] == replace(ballot("a", ITEMS[0], 0), probabilities=(0.333333,) * 3)
    assert stored[-1].votes[0] == replace(text, logprob=-0.123457)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=60).filter(lambda values: sum(values) > 0.0))
def test_rounded_probabilities_still_sum_to_one_as_far_as_a_tally_asks(values: list[float]) -> None:
    exact = tuple(value / sum(values) for value in values)

    rounded = vote_from_row(vote_to_row(Ballot(member="a", probabilities=exact)))

    assert not isinstance(rounded, Abstention)
    assert abs(sum(rounded.probabilities) - 1.0) < PROBABILITY_TOLERANCE
    assert vote_to_row(rounded)["probabilities"] == list(rounded.probabilities)


def test_a_set_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path)

    with pytest.raises(ConfigError, match="no set 'sets'; use one of: set, texts"):
        load_evaluation(tmp_path).item_votes(["sets"])
