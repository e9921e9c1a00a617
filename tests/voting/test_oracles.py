"""scikit-learn's VotingClassifier says the same, on random votes of fixed classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.ensemble import VotingClassifier  # type: ignore[import-untyped]
from sklearn.preprocessing import LabelEncoder  # type: ignore[import-untyped]

from ensemble.voting import Ballot
from tests.voting.panels import build_question, decide

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("a", "b", "c", "d")
NUM_ITEMS = 300


class TableClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Says what its table says about item n."""

    def __init__(self, table: NDArray[np.float64]) -> None:
        self.table = table
        self.classes_ = np.arange(len(LABELS))

    def predict_proba(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.table[items[:, 0]]

    def predict(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = np.argmax(self.predict_proba(items), axis=1)
        return best


def sklearn_answers(tables: list[NDArray[np.float64]], weights: list[float] | None, voting: str) -> list[str]:
    classifier = VotingClassifier([], voting=voting, weights=weights)
    classifier.estimators = [(f"m{n}", TableClassifier(table)) for n, table in enumerate(tables)]
    classifier.estimators_ = [estimator for _, estimator in classifier.estimators]
    classifier.le_ = LabelEncoder().fit(np.arange(len(LABELS)))
    classifier.classes_ = classifier.le_.classes_
    return [LABELS[y] for y in classifier.predict(np.arange(NUM_ITEMS)[:, None])]


@pytest.mark.parametrize(
    ("strategy", "voting", "is_weighted"),
    [
        ("majority", "hard", False),
        ("weighted_vote", "hard", True),
        ("soft_vote", "soft", True),
        ("soft_vote", "soft", False),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scikit_learn_agrees(strategy: str, voting: str, is_weighted: bool, seed: int) -> None:  # noqa: FBT001  pytest passes by name
    rng = np.random.default_rng(seed)
    # With equal weights scikit-learn breaks a tie by label order, and so do we without log-probabilities.
    weights = [float(weight) for weight in rng.uniform(0.5, 2.0, 5)] if is_weighted else [1.0] * 5
    tables = [rng.dirichlet(np.ones(len(LABELS)), NUM_ITEMS) for _ in weights]
    question = build_question(weights, LABELS)

    ours = [
        decide(
            strategy,
            question,
            [Ballot(member=f"m{n}", probabilities=tuple(map(float, table[item]))) for n, table in enumerate(tables)],
        ).answer
        for item in range(NUM_ITEMS)
    ]

    assert ours == sklearn_answers(tables, weights if is_weighted else None, voting)
