"""A search for a variant: the same end whatever ends first, and after a kill; judged by what did not choose."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.variants.adjust import Adjustment, check_adjustment, search_variants
from ensemble.variants.adjust_plot import plot_adjustment
from ensemble.variants.adjust_report import adjustment_to_json, render_adjustment, save_adjustment
from ensemble.variants.adjust_search import Aim, Limit
from ensemble.variants.adjust_template import Chain
from ensemble.variants.adjust_verdict import write_verdict
from ensemble.variants.trial_figures import TrialFigures
from ensemble.variants.trial_store import TrialStore
from tests.variants.adjustments import (
    FakeTrials,
    build_chain,
    build_figures,
    build_point,
    build_task,
    figures_of,
)


def store(folder: Path, **facts: str) -> TrialStore:
    return TrialStore(folder=folder, facts=facts)


@pytest.mark.parametrize("at_once", [1, 3])
def test_which_trial_ends_first_changes_nothing(at_once: int, tmp_path: Path) -> None:
    task = build_task(at_once=at_once)

    found = [search_variants(task, FakeTrials(seed), store(tmp_path / str(seed))) for seed in range(8)]

    assert all(adjustment_to_json(one) == adjustment_to_json(found[0]) for one in found)
    assert found[0].chosen is not None
    assert found[0].chosen.name == "a9"
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / f"{n}/trials").iterdir()) for n in range(8)]
    assert all(one == files[0] for one in files)


def test_chains_are_searched_at_once(tmp_path: Path) -> None:
    trials = FakeTrials()

    search_variants(build_task(*(build_chain(name) for name in "abc"), at_once=2), trials, store(tmp_path))

    assert trials.most_at_once == 6


@pytest.mark.parametrize("dies_after", [0, 1, 4, 7])
def test_a_search_that_died_goes_on_where_it_was_to_the_same_end(dies_after: int, tmp_path: Path) -> None:
    task, quiet = build_task(), FakeTrials()
    expected = search_variants(task, quiet, store(tmp_path / "quiet"))
    with pytest.raises(KeyboardInterrupt):
        search_variants(task, FakeTrials(1, dies_after=dies_after), store(tmp_path / "killed"))
    again = FakeTrials(2)
    kept = []

    found = search_variants(
        task,
        again,
        store(tmp_path / "killed"),
        on_trial=lambda point, figures, *, is_kept: kept.append(point.name) if is_kept else None,  # noqa: ARG005
    )

    assert adjustment_to_json(found) == adjustment_to_json(expected)
    assert len(kept) == dies_after
    assert len(again.ended) == len(quiet.ended) - dies_after


def test_trials_of_another_task_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    task, other = build_task(), build_task(source_digest="sha256:1")
    search_variants(task, FakeTrials(), store(tmp_path, source="0"))
    again = FakeTrials()

    search_variants(other, again, TrialStore(folder=tmp_path, facts=other.choosing.facts()))

    assert again.ended
    assert task.choosing.facts() != other.choosing.facts()


def test_a_damaged_trial_is_told_with_its_file(tmp_path: Path) -> None:
    task = build_task()
    search_variants(task, FakeTrials(), store(tmp_path))
    file = next((tmp_path / "trials").glob("*.json"))
    file.write_text("{", "utf-8")

    with pytest.raises(ConfigError, match="it is no trial's") as caught:
        search_variants(task, FakeTrials(), store(tmp_path))

    assert caught.value.where == str(file)


def test_what_judges_had_no_part_in_the_choice() -> None:
    task = build_task()

    choosing, judging = task.choosing.text.passages, task.confirming.text.passages

    assert not set(choosing) & set(judging)
    assert sorted([*choosing, *judging]) == sorted(task.trial.text.passages)
    assert task.choosing.facts() != task.confirming.facts()


def test_only_the_best_variant_so_far_keeps_its_checkpoint(tmp_path: Path) -> None:
    trials, task = store(tmp_path), build_task(build_chain("a"))

    def measure_and_leave(point: object) -> TrialFigures:
        checkpoint = trials.checkpoint(point)  # type: ignore[arg-type]
        checkpoint.mkdir(parents=True)
        return figures_of(point)  # type: ignore[arg-type]

    found = search_variants(task, FakeTrials(measure=measure_and_leave), trials)

    assert found.chosen is not None
    assert [path for path in (tmp_path / "trials").iterdir() if path.is_dir()] == [trials.checkpoint(found.chosen)]


def adjusted(limit: Limit, *ratios: float, confirmed: TrialFigures | None = None) -> Adjustment:
    points = [build_point(f"p{number}", (number + 1) / 10) for number in range(len(ratios))]
    task = build_task(*(Chain(points=(point,)) for point in points), limit=limit)
    figures = {
        point.name: build_figures(ratio=ratio, speedup=1 + number / 2)
        for number, (point, ratio) in enumerate(zip(points, ratios, strict=True))
    }
    chosen = points[1] if len(points) > 1 and confirmed else None
    return Adjustment(task=task, figures=figures, chosen=chosen, confirmed=confirmed)


def test_the_verdict_tells_what_the_other_half_says() -> None:
    adjustment = adjusted(Limit(max_loss=0.1), 1.02, 1.08, confirmed=build_figures(ratio=1.09, speedup=1.4))

    first, second, third, last = write_verdict(adjustment)

    assert first == "p1 is the fastest among those of 2 variants that keep perplexity within 1.1 times the original's."
    assert second == "On the half that did not choose it, perplexity is 1.090 (1.080 to 1.100) times the original's."
    assert third == "Timed again, it decodes 1.40 times (1.35 to 1.45) as fast."
    assert last == "Its weights take 0.50 of the original's 1.9 MiB."


def test_the_verdict_does_not_hide_that_a_choice_was_lucky() -> None:
    lossy = adjusted(Limit(max_loss=0.1), 1.02, 1.08, confirmed=build_figures(ratio=1.2, speedup=0.9))
    slow = adjusted(Limit(min_speedup=1.5), 1.02, 1.08, confirmed=build_figures(ratio=1.08, speedup=1.3))

    assert "That is more loss than was allowed: the choice was lucky." in write_verdict(lossy)
    assert "It is slower than the original." in write_verdict(lossy)
    assert "That is slower than was wanted: the choice was lucky." in write_verdict(slow)
    assert write_verdict(slow)[0].startswith(
        "p1 is the one of least loss among those of 2 variants that decode at least"
    )


def test_the_verdict_names_the_nearest_when_nothing_keeps_the_limit() -> None:
    adjustment = adjusted(Limit(max_loss=0.01), 1.3, 1.2)

    (sentence,) = write_verdict(adjustment)

    assert sentence == (
        "None of 2 variants that were tried keep perplexity within 1.01 times the original's; of the nearest, p1, "
        "perplexity is 1.200 (1.190 to 1.210) times the original's, and it decodes 1.50 times as fast."
    )


@pytest.mark.parametrize(("aim", "place"), [("speed", 1.0), ("size", 2_000_000 / 2**20)])
def test_the_picture_has_the_original_where_nothing_is_lost(aim: Aim, place: float) -> None:
    adjustment = adjusted(Limit(max_loss=0.1), 1.02, 1.08, confirmed=build_figures(ratio=1.09, speedup=1.4))

    figure = plot_adjustment(replace(adjustment, task=replace(adjustment.task, aim=aim)))

    (axis,) = figure.axes
    (original,) = (one for one in axis.collections if one.get_label() == "original")
    assert original.get_offsets().tolist() == [[place, 1.0]]  # type: ignore[union-attr]
    (choice,) = (one for one in axis.collections if one.get_label() == "the choice")
    assert choice.get_offsets().tolist()[0][1] == pytest.approx(1.08)  # type: ignore[union-attr]


def test_the_report_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    adjustment = adjusted(Limit(max_loss=0.1), 1.02, 1.08, 40.0, confirmed=build_figures(ratio=1.09, speedup=1.4))
    failed = TrialFigures(file_bytes=0, original_bytes=1, problem="<b>no number</b>")
    adjustment = Adjustment(
        task=adjustment.task,
        figures={**adjustment.figures, "p2": failed},
        chosen=adjustment.chosen,
        confirmed=adjustment.confirmed,
    )

    page = render_adjustment(adjustment)
    save_adjustment(adjustment, tmp_path)

    assert "&lt;b&gt;no number" in page
    assert "<svg" in page
    assert not re.search(r"(src|href)=.(?!#)", page)
    assert "1.090 (1.080 to 1.100) times" in page
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"pareto.png", "figures.json", "report.html"}


@pytest.mark.parametrize(
    ("num_passages", "learned", "problem"),
    [
        (7, "learned", "7 passages, and 8 are needed"),
        (9, "judged", "would learn from the text that they are judged by"),
    ],
)
def test_what_would_make_figures_wrong_is_refused_first(
    num_passages: int, learned: str, problem: str, tmp_path: Path
) -> None:
    task = build_task()
    text = replace(task.trial.text, passages=task.trial.text.passages[:num_passages])
    trial = replace(task.trial, text=text, calibration_digests=(learned,))

    with pytest.raises(ConfigError, match=problem):
        check_adjustment(replace(task, trial=trial), tmp_path / "out")


def test_a_search_for_a_speed_must_time() -> None:
    task = build_task(limit=Limit(min_speedup=1.5), aim="size")

    with pytest.raises(ConfigError, match="a speed is wanted"):
        check_adjustment(replace(task, trial=replace(task.trial, speed=None)), Path("out"))
