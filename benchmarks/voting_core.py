"""How many ballots one Python process counts: five members, four choices, weighted_vote, stopped as the router stops.

Each vote opens a tally, adds ballot after ballot in a random order of arrival, asks after each whether the vote is
decided, stops when it is, and decides. Only ballots that were added are counted, so an early stop makes the figure
smaller, not larger. The best of the rounds is reported: the machine's other work can only slow a round down.

    python benchmarks/voting_core.py [--votes 500] [--rounds 60]
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence

from ensemble.voting import Ballot, DecidedBy, Question, Quorum, Tally, Voter, get_strategy

ACCURACIES = (0.85, 0.8, 0.75, 0.7, 0.65)
CHOICES = ("A", "B", "C", "D")
SEED = 7


def build_panel() -> tuple[Voter, ...]:
    """Make five members of four families, weighted by the log-odds of their accuracy."""
    weights = [math.log(p * (len(CHOICES) - 1) / (1 - p)) for p in ACCURACIES]
    families = ("f", "f", "g", "h", "i")
    return tuple(
        Voter(member=f"m{n}", family=family, weight=weight)
        for n, (family, weight) in enumerate(zip(families, weights, strict=True))
    )


def build_votes(num_votes: int, panel: tuple[Voter, ...]) -> list[list[Ballot]]:
    """Draw each vote's ballots in their order of arrival; every member is right as often as its accuracy says."""
    rng = random.Random(SEED)  # noqa: S311  votes, no secrets
    votes = []
    for _ in range(num_votes):
        truth = rng.choice(CHOICES)
        wrong = [choice for choice in CHOICES if choice != truth]
        ballots = [
            Ballot(member=voter.member, choice=truth if rng.random() < accuracy else rng.choice(wrong), logprob=-1.0)
            for voter, accuracy in zip(panel, ACCURACIES, strict=True)
        ]
        rng.shuffle(ballots)
        votes.append(ballots)
    return votes


def decide_all(votes: Sequence[Sequence[Ballot]], question: Question) -> int:
    """Decide every vote and give the number of ballots that it took."""
    strategy = get_strategy("weighted_vote")
    num_ballots = 0
    for ballots in votes:
        tally: Tally = strategy.open_tally(question)
        for ballot in ballots:
            tally = tally.add(ballot)
            if tally.is_decided():
                break
        tally.decide(DecidedBy.LOSSLESS_QUORUM if tally.waiting else DecidedBy.ALL)
        num_ballots += tally.num_cast
    return num_ballots


def main() -> None:
    """Measure and print; the last line is the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=500, help="votes a round")
    parser.add_argument("--rounds", type=int, default=60, help="rounds; the best counts")
    arguments = parser.parse_args()
    panel = build_panel()
    votes = build_votes(arguments.votes, panel)
    rates = {}
    for name, quorum in (("everyone is waited for", Quorum(stop_early=False)), ("early stop", Quorum())):
        question = Question(panel=panel, quorum=quorum, choices=CHOICES)
        rounds = []
        for _ in range(arguments.rounds):
            started_s = time.perf_counter()
            num_ballots = decide_all(votes, question)
            rounds.append(num_ballots / (time.perf_counter() - started_s))
        rates[name] = max(rounds)
        print(f"{name}: {num_ballots / len(votes):.2f} ballots a vote, {rates[name]:,.0f} ballots a second")
    print(f"RESULT voting_core ballots_per_s={rates['early stop']:.0f}")


if __name__ == "__main__":
    main()
