"""A lock lies beside its target under a name of its own, and one process holds it."""

from __future__ import annotations

from pathlib import Path

from ensemble.files.locks import drop_lock, find_locked, is_lock, lock_of, locked_if_free


def test_a_lock_that_is_held_is_not_given_a_second_time_and_is_free_afterwards(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"

    with locked_if_free(target) as first, locked_if_free(target) as second:
        pass
    with locked_if_free(target) as third:
        pass

    assert (first, second, third) == (True, False, True)


def test_a_lock_is_known_by_its_name_and_leads_back_to_its_target(tmp_path: Path) -> None:
    targets = [tmp_path / ".trial-a", tmp_path / "trial-b", tmp_path / "other"]
    for target in targets:
        with lock_of(target):
            pass
    (tmp_path / "trial-c").touch()

    names = {path.name: is_lock(path.name) for path in tmp_path.iterdir()}

    assert names == {"..trial-a.lock": True, ".trial-b.lock": True, ".other.lock": True, "trial-c": False}
    assert sorted(find_locked(tmp_path)) == sorted(targets)
    assert find_locked(tmp_path, prefix="trial-") == [targets[1]]


def test_a_lock_that_is_dropped_leaves_no_file(tmp_path: Path) -> None:
    with locked_if_free(tmp_path / "target"):
        drop_lock(tmp_path / "target")

    assert not list(tmp_path.iterdir())
