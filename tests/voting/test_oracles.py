"""scikit-learn, pref-voting and crowd-kit say the same, on random votes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import MajorityVote
from pref_voting.profiles import Profile
from pref_voting.scoring_methods import borda, plurality
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import LabelEncoder

from ensemble.voting import Ballot
from tests.voting.panels import build_question, decide, hard

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


def random_profiles(seed: int, num_voters: int) -> list[list[list[int]]]:
    rng = np.random.default_rng(seed)
    return [[list(map(int, rng.permutation(len(LABELS)))) for _ in range(num_voters)] for _ in range(100)]


@pytest.mark.parametrize(("strategy", "oracle"), [("borda", borda), ("majority", plurality)])
@pytest.mark.parametrize("num_voters", [3, 4, 7])
def test_pref_voting_agrees(strategy: str, oracle: Any, num_voters: int) -> None:
    for rankings in random_profiles(num_voters, num_voters):
        # The places of the choices in the ranking, as probabilities: 4, 3, 2 and 1 tenths.
        ballots = [
            Ballot(member=f"m{n}", probabilities=tuple((len(LABELS) - ranking.index(y)) / 10 for y in range(4)))
            for n, ranking in enumerate(rankings)
        ]

        decision = decide(strategy, build_question([1.0] * num_voters, LABELS), ballots)

        winners = [LABELS[y] for y in oracle(Profile(rankings))]
        best = decision.candidates[0].weight
        tied = {candidate.answer for candidate in decision.candidates if candidate.weight == best}
        assert tied == set(winners)
        assert decision.answer in winners


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # crowd-kit's use of pandas
def test_crowd_kit_agrees_on_majorities() -> None:
    rng = np.random.default_rng(5)
    votes = rng.integers(0, len(LABELS), (200, 5))
    frame = pd.DataFrame(
        [(item, f"m{n}", LABELS[vote]) for item, row in enumerate(votes) for n, vote in enumerate(row)],
        columns=["task", "worker", "label"],
    )

    theirs = MajorityVote().fit_predict_proba(frame)

    for item, row in enumerate(votes):
        ours = decide("majority", build_question([1.0] * 5, LABELS), [hard(n, LABELS[y]) for n, y in enumerate(row)])
        assert ours.agreement == pytest.approx(theirs.loc[item].max())
        assert theirs.loc[item][ours.answer] == pytest.approx(ours.agreement)
