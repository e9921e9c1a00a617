"""What a ballot must look like to be counted, task by task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ensemble.errors import InvalidRequestError
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from ensemble.voting.short_answer import extract_answer, is_refusal, normalise_answer
from ensemble.voting.strategy import Question

Admit = Callable[[Ballot, Question], Vote]

# Probabilities are often computed in float32, whose rounding over a few hundred choices stays below this.
PROBABILITY_TOLERANCE = 1e-5


def admit_choice(ballot: Ballot, question: Question) -> Ballot:
    """Check a ballot among declared choices; one with probabilities alone gets the likeliest as its choice.

    Raises:
        InvalidRequestError: no choice, an undeclared one, or probabilities that are no distribution over the choices.
    """
    _check_logprob(ballot)
    _check_probabilities(ballot, len(question.choices))
    if ballot.choice is None and ballot.probabilities:
        likeliest = max(range(len(question.choices)), key=ballot.probabilities.__getitem__)
        return replace(ballot, choice=question.choices[likeliest])
    if ballot.choice is None:
        raise _misfit(ballot, "it has neither a choice nor probabilities", "give one of the two")
    if ballot.choice not in question.choices:
        raise _misfit(ballot, f"{ballot.choice!r} is not a declared choice", "vote for one of the question's choices")
    return ballot


def admit_distribution(ballot: Ballot, question: Question) -> Ballot:
    """Check a ballot among declared choices that must come with probabilities.

    Raises:
        InvalidRequestError: as for ``admit_choice``, or there are no probabilities.
    """
    if not ballot.probabilities:
        raise _misfit(ballot, "it has no probabilities", "give one a choice, or ask for weighted_vote")
    return admit_choice(ballot, question)


def admit_short_answer(ballot: Ballot, question: Question) -> Vote:
    """Read a text's short answer into ``choice``, normalised; a text without one becomes an abstention.

    Raises:
        InvalidRequestError: there is no text, or there are probabilities.
    """
    text = _text_of(ballot)
    if question.answer_rule.extract != "pattern" and is_refusal(text):
        return _silence(ballot, AbstentionReason.REFUSAL, "the text declines to answer")
    answer = extract_answer(text, question.answer_rule)
    if answer is None:
        reason = AbstentionReason.REFUSAL if is_refusal(text) else AbstentionReason.UNPARSEABLE
        return _silence(ballot, reason, f"the rule {question.answer_rule.extract!r} finds no answer in the text")
    return replace(ballot, choice=normalise_answer(answer))


def admit_free_text(ballot: Ballot, question: Question) -> Vote:  # noqa: ARG001  one shape for every task
    """Check a ballot that is a whole text; a blank one becomes an abstention.

    Raises:
        InvalidRequestError: there is no text, or there are probabilities.
    """
    if _text_of(ballot).strip():
        return ballot
    return _silence(ballot, AbstentionReason.UNPARSEABLE, "the text is blank")


def _text_of(ballot: Ballot) -> str:
    _check_logprob(ballot)
    _check_probabilities(ballot, 0)
    if ballot.text is None:
        raise _misfit(ballot, "it has no text", "give the completion")
    return ballot.text


def _check_logprob(ballot: Ballot) -> None:
    if ballot.logprob is not None and not math.isfinite(ballot.logprob):
        raise _misfit(ballot, f"its log-probability is {ballot.logprob}", "give a finite one, or none")


def _check_probabilities(ballot: Ballot, num_choices: int) -> None:
    probabilities = ballot.probabilities
    if not probabilities:
        return
    if len(probabilities) != num_choices:
        problem = f"it has {len(probabilities)} probabilities for {num_choices} choices"
        raise _misfit(ballot, problem, "give one a choice, in the declared order")
    if not all(0.0 <= probability <= 1.0 + PROBABILITY_TOLERANCE for probability in probabilities):
        raise _misfit(ballot, "a probability is negative or not finite or above 1", "give ones from 0 to 1")
    if abs((total := math.fsum(probabilities)) - 1.0) > PROBABILITY_TOLERANCE:
        raise _misfit(ballot, f"its probabilities sum to {total:g}", "give ones that sum to 1")


def _misfit(ballot: Ballot, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(f"ballots[{ballot.member}]", problem, remedy)


def _silence(ballot: Ballot, reason: AbstentionReason, detail: str) -> Abstention:
    return Abstention(member=ballot.member, reason=reason, detail=detail, latency_s=ballot.latency_s)
