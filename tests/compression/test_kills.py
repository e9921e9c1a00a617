"""``kill -9`` wherever it comes, then the same command: the bytes of a run that was never killed."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.compression.record import TIMES_NAME
from tests.checkpoints.tiny_models import build_llama, save
from tests.compression.every_step import FLOAT_NAMES, LAST_NAMES, describe_step
from tests.compression.killed_runs import ERROR, KEEPING, Command, Kill, run, start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KILLED = -9
CALIBRATION = {"window_tokens": 64, "num_windows": 4, "own_tokens": 40 * 64}


def build_recipes() -> dict[str, Any]:
    """Build recipes with every step there is: those that leave float weights in one, each of the others alone."""
    steps_by_recipe = {"floats": FLOAT_NAMES, **{name: (name,) for name in LAST_NAMES}}
    return {
        recipe: {"steps": [describe_step(name) for name in names], "calibration": CALIBRATION}
        for recipe, names in steps_by_recipe.items()
    }


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != TIMES_NAME
    }


def find_steps(places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Give those of the places that are steps, each once."""
    return [place for place in dict.fromkeys(places) if place[1].startswith("step")]


def test_killed_in_the_middle_of_each_part_and_resumed_every_byte_is_the_same(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    whole = Command(
        source=source, recipe_by_name=build_recipes(), output=tmp_path / "whole", cache_dir=tmp_path / "cache-1"
    )
    killed = Command(
        source=source, recipe_by_name=build_recipes(), output=tmp_path / "killed", cache_dir=tmp_path / "cache-2"
    )
    _, events = run(whole)
    num_events_by_place = Counter(place for place in events if place[1] != "source")

    exit_codes, steps_by_run = [], []
    for (variant, part), num_events in num_events_by_place.items():
        exit_code, events = run(killed, Kill(variant=variant, part=part, num_events=num_events // 2 + 1))
        exit_codes.append(exit_code)
        steps_by_run.append(find_steps(events))
    last_exit_code, events = run(killed)

    assert set(exit_codes) == {KILLED}
    assert last_exit_code == 0
    places = list(num_events_by_place)
    # A run takes up the step in which the one before was killed, and gets into the one in which it is killed itself.
    assert steps_by_run == [find_steps(places[max(0, number - 1) : number + 1]) for number in range(len(places))]
    assert find_steps(events) == []
    files = read_files(tmp_path / "whole")
    assert {name.partition("/")[0] for name in files} == set(build_recipes())
    assert read_files(tmp_path / "killed") == files


def test_a_state_that_was_not_whole_at_the_kill_is_made_again(tmp_path: Path) -> None:
    recipe = {"steps": [{"type": "prune_layers", "num_layers": 1}, {"type": "quantize_int8"}]}
    source = save(build_llama(), tmp_path / "source")
    command = Command(
        source=source, recipe_by_name={"one": recipe}, output=tmp_path / "out", cache_dir=tmp_path / "cache"
    )
    first, _ = run(command, KEEPING)
    left = [path.name for path in (tmp_path / "cache").rglob("step-01*")]
    partial = [path.name for path in (tmp_path / "cache").rglob(".partial-*")]

    second, events = run(command)

    assert (first, second) == (KILLED, 0)
    assert left == []
    assert len(partial) == 1
    assert ("one", "step 1 of 2, prune_layers") in events
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_two_processes_never_make_the_same_and_a_killed_ones_lock_is_free(tmp_path: Path) -> None:
    recipe = {"steps": [{"type": "prune_layers", "num_layers": 1}]}
    source = save(build_llama(), tmp_path / "source")
    command = Command(
        source=source, recipe_by_name={"one": recipe}, output=tmp_path / "out", cache_dir=tmp_path / "cache"
    )
    elsewhere = replace(command, output=tmp_path / "elsewhere")
    other_recipe = replace(command, recipe_by_name={"one": {"steps": [{"type": "quantize_int8"}]}})
    place = ("one", "step 1 of 1, prune_layers")
    stopped, receiver = start(command, Kill(variant=place[0], part=place[1], signal=signal.SIGSTOP))
    while receiver.recv() != place:
        pass

    same, other = run(elsewhere), run(other_recipe)
    stopped.kill()
    stopped.join()
    after, _ = run(command)

    assert "another process compresses the same checkpoint in the same way" in same[1][-1][1]
    assert "another process writes it" in other[1][-1][1]
    assert (same[0], other[0], after) == (1, 1, 0)


@pytest.mark.parametrize(("part", "num_kept"), [("step 1 of 1, prune_layers", 0), ("write", 1)])
def test_a_disk_that_becomes_full_is_told_and_nothing_is_left_that_is_not_whole(
    tmp_path: Path, part: str, num_kept: int
) -> None:
    command = Command(
        source=save(build_llama(), tmp_path / "source"),
        recipe_by_name={"one": {"steps": [{"type": "prune_layers", "num_layers": 1}]}},
        output=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        full_from=part,
    )

    exit_code, events = run(command)

    assert exit_code == 1
    assert events[-1][0] == ERROR
    assert "it cannot be written" in events[-1][1]
    assert "make room there" in events[-1][1]
    assert not list((tmp_path / "out").glob("**/*"))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == num_kept
    after, events = run(replace(command, full_from=None))
    assert after == 0
    assert len(find_steps(events)) == 1 - num_kept
