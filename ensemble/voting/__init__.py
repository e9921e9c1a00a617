"""Exact voting: pure functions over ballots, without network, model or clock."""

from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Question, Quorum, Strategy, Tally, Task, task_of

__all__ = [
    "STRATEGY_NAMES",
    "Abstention",
    "AbstentionReason",
    "AnswerRule",
    "Ballot",
    "Candidate",
    "DecidedBy",
    "Decision",
    "Question",
    "Quorum",
    "Strategy",
    "Tally",
    "Task",
    "Vote",
    "Voter",
    "get_strategy",
    "task_of",
]
