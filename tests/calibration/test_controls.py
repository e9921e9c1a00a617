"""Controls: a gain is found where there is one, and none is claimed where there is none or where a copy votes along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from ensemble.calibration.calibration_file import Calibration
from ensemble.calibration.counting import CountOptions, count_set
from ensemble.calibration.fit import FitOptions, fit_calibration
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.verdict import judge
from ensemble.voting.ballot import Voter
from tests.calibration.simulated import soft_ballot, softmax

NUM_MEMBERS = 5
NUM_TRAINING = 1000
NUM_SHARDED = 250
"""Fifty images a shard leave members something to learn from each other, and many items to show it on."""
LABELS = tuple(f"digit {number}" for number in range(10))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices are small: threads of BLAS would wait for each other."""
    with threadpool_limits(1):
        yield


def _train(images: np.ndarray, digits: np.ndarray, *, seed: int) -> MLPClassifier:
    model = MLPClassifier(hidden_layer_sizes=(64,), max_iter=150, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(images, digits)


def _compress(model: MLPClassifier) -> MLPClassifier:
    """Prune the smaller half of each matrix, and round each output's other weights to 15 levels, symmetric about 0."""
    compressed = []
    for weight_IO in model.coefs_:
        pruned_IO = np.where(np.abs(weight_IO) < np.median(np.abs(weight_IO)), 0.0, weight_IO)
        scale_O = np.maximum(np.abs(pruned_IO).max(axis=0), 1e-12) / 7.0
        compressed.append(np.round(pruned_IO / scale_O) * scale_O)
    model.coefs_ = compressed
    return model


def _calibrate(models: Sequence[MLPClassifier], images: np.ndarray, digits: np.ndarray) -> Calibration:
    probabilities = [model.predict_proba(images) for model in models]
    items = [
        ItemVotes(
            item=LabelledItem(item_id=str(row), prompt="Which digit?", choices=LABELS, answer=int(digit)),
            votes=tuple(soft_ballot(f"m{place}", each[row]) for place, each in enumerate(probabilities)),
        )
        for row, digit in enumerate(digits)
    ]
    voters = tuple(Voter(member=f"m{place}", family=f"m{place}") for place in range(len(models)))
    options = FitOptions(ensemble="digits", strategies=("weighted_vote", "log_pool"), risk_delta=None)
    return fit_calibration(items, voters, options=options)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    return images[order] / 16.0, digits[order]


def test_compressed_models_of_five_shards_beat_the_best_of_them(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, digits = data
    shards = np.array_split(np.arange(NUM_SHARDED), NUM_MEMBERS)
    models = [_compress(_train(images[shard], digits[shard], seed=n)) for n, shard in enumerate(shards)]

    calibration = _calibrate(models, images[NUM_SHARDED:], digits[NUM_SHARDED:])

    pooled = calibration.strategies["log_pool"].held_out
    members = calibration.members.values()
    assert calibration.gate.is_gain_claimed
    assert calibration.gate.p_value < 0.01
    assert pooled.accuracy > max(max(member.accuracy, member.corrected_accuracy) for member in members) + 0.02
    assert pooled.ece_after <= 0.05


def test_no_gain_is_claimed_for_five_seeds_of_one_model(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, digits = data
    models = [_train(images[:NUM_TRAINING], digits[:NUM_TRAINING], seed=seed) for seed in range(NUM_MEMBERS)]

    calibration = _calibrate(models, images[NUM_TRAINING:], digits[NUM_TRAINING:])

    assert not calibration.gate.is_gain_claimed
    assert "does not beat its best member" in calibration.gate.sentence


def test_no_gain_is_claimed_for_near_copies_of_a_member_that_its_own_correction_betters() -> None:
    items, voters = _near_copies(600)

    calibration = fit_calibration(items, voters, options=FitOptions(ensemble="copies", risk_delta=None))

    corrected = max(member.corrected_accuracy for member in calibration.members.values())
    pooled = calibration.strategies[calibration.gate.strategy].held_out
    assert pooled.accuracy > max(member.accuracy for member in calibration.members.values()) + 0.1
    assert calibration.gate.is_best_corrected
    assert not calibration.gate.is_gain_claimed
    assert f"alone, with its own calibration, on {corrected:.3f}" in calibration.gate.sentence


def test_the_report_and_the_calibration_judge_alike() -> None:
    items, voters = _near_copies(200)
    options = CountOptions(
        ensemble="copies", voters=voters, strategy_by_kind={True: "weighted_vote", False: "weighted_vote"}
    )

    counted = count_set(items, options)

    verdict = judge(counted, "accuracy", cost_by_member={voter.member: 1.0 for voter in voters})
    assert verdict is not None
    assert counted.calibration is not None
    gate = counted.calibration.gate
    assert (gate.strategy, gate.best_member) == (verdict.strategy, verdict.best_member)
    assert (gate.is_gain_claimed, gate.is_best_corrected) == (verdict.is_gain, verdict.is_best_corrected)
    assert gate.p_value == pytest.approx(verdict.p_value)


def _near_copies(num_items: int) -> tuple[list[ItemVotes], tuple[Voter, ...]]:
    """Make two members of one model that prefers its first label, but for a little noise."""
    generator = np.random.default_rng(4)
    labels = ("negative", "neutral", "positive")
    items = []
    for number in range(num_items):
        answer = int(generator.integers(len(labels)))
        logits = generator.normal(size=len(labels))
        logits[answer] += 1.8
        logits[0] += 2.0
        votes = tuple(soft_ballot(f"m{n}", softmax(logits + 0.05 * generator.normal(size=3))) for n in range(2))
        item = LabelledItem(item_id=f"{number}", prompt="?", choices=labels, answer=answer)
        items.append(ItemVotes(item=item, votes=votes))
    return items, tuple(Voter(member=f"m{n}", family=f"family-{n}") for n in range(2))
