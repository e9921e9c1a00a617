from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import OneCoinDawidSkene

from ensemble.calibration.dawid_skene import fit_without_labels
from ensemble.voting.ballot import Voter


def _crowd(accuracies: tuple[float, ...], num_items: int, seed: int) -> tuple[list[dict[str, str]], list[str]]:
    generator = np.random.default_rng(seed)
    answers = [str(answer) for answer in generator.integers(0, 4, num_items)]
    items = []
    for answer in answers:
        others = [str(choice) for choice in range(4) if str(choice) != answer]
        items.append(
            {
                f"m{place}": answer if generator.uniform() < accuracy else str(generator.choice(others))
                for place, accuracy in enumerate(accuracies)
            }
        )
    return items, answers


def _voters(*families: str) -> tuple[Voter, ...]:
    return tuple(Voter(member=f"m{place}", family=family) for place, family in enumerate(families))


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # crowd-kit's use of pandas
def test_accuracies_are_found_without_labels_as_crowd_kit_finds_them() -> None:
    accuracies = (0.9, 0.75, 0.6, 0.5)
    items, _ = _crowd(accuracies, 1500, 3)

    fit = fit_without_labels(items, _voters("a", "b", "c", "d"), num_choices=4)

    frame = pd.DataFrame(
        [(task, worker, label) for task, item in enumerate(items) for worker, label in item.items()],
        columns=["task", "worker", "label"],
    )
    oracle = OneCoinDawidSkene(n_iter=100, tol=1e-9).fit(frame)
    assert oracle.labels_ is not None
    skills = [oracle.skills_[f"m{place}"] for place in range(4)]
    assert [fit.accuracy_by_family[family] for family in "abcd"] == pytest.approx(skills, abs=0.02)
    assert [fit.accuracy_by_family[family] for family in "abcd"] == pytest.approx(accuracies, abs=0.05)
    mine = [max(posterior, key=posterior.__getitem__) for posterior in fit.posterior_by_item]
    assert np.mean([one == other for one, other in zip(mine, oracle.labels_.tolist(), strict=True)]) > 0.97
    assert not fit.is_calibrated


def test_siblings_are_one_worker_and_share_its_weight() -> None:
    items, _ = _crowd((0.9, 0.75, 0.6), 400, 5)
    cloned = [{**item, "m3": item["m2"], "m4": item["m2"]} for item in items]

    plain = fit_without_labels(items, _voters("a", "b", "c"), num_choices=4)
    with_clones = fit_without_labels(cloned, _voters("a", "b", "c", "c", "c"), num_choices=4)

    assert with_clones.accuracy_by_family == pytest.approx(plain.accuracy_by_family)
    assert with_clones.weight_by_member["m4"] == pytest.approx(plain.weight_by_member["m2"] / 3)


def test_members_without_a_ballot_say_nothing() -> None:
    items, _ = _crowd((0.9, 0.8, 0.7), 300, 6)
    partial = [
        {member: choice for member, choice in item.items() if n % 3 or member != "m0"} for n, item in enumerate(items)
    ]

    fit = fit_without_labels([*partial, {}], _voters("a", "b", "c"), num_choices=4)

    assert fit.accuracy_by_family["a"] == pytest.approx(0.9, abs=0.06)
    assert fit.posterior_by_item[-1] == {}
