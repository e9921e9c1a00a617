"""One request on its way: who is asked what, by which rule it is decided, and until when."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ensemble.errors import InvalidRequestError
from ensemble.generation import GenerationParameters, GenerationRequest, ScoringRequest
from ensemble.router.ballots import ask_for_choice, ask_for_stream, ask_for_text
from ensemble.router.config import LimitsConfig
from ensemble.router.fan_out import Ask
from ensemble.router.ports import MemberClient
from ensemble.router.request import ClassifyRequest, GenerateRequest, VoteOptions
from ensemble.router.validation import (
    check_choices,
    check_known,
    check_panel,
    check_parameters,
    check_prompt,
    check_quorum,
)
from ensemble.voting.ballot import Voter
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Question, Quorum, Strategy, task_of

RESERVE_SHARE = 0.1
"""Share of the client's time kept back for deciding and answering, and at most ``RESERVE_S``."""
RESERVE_S = 0.1
HEAVY_RESERVE_SHARE = 0.3
"""Share of the client's time kept back when the voting service decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A configured set of members and how they vote."""

    name: str
    voters: tuple[Voter, ...]
    classify_strategy: str
    generate_strategy: str
    quorum: Quorum
    fail_without_quorum: bool
    answer_rule: AnswerRule
    parameters: GenerationParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """A vote that can begin. Times are of the monotonic clock."""

    ensemble: Ensemble
    strategy: Strategy
    question: Question
    asks: Mapping[str, Ask]
    started_s: float
    members_until_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionBuilder:
    """Makes elections from requests; bad requests end here.

    Every method raises InvalidRequestError (or its kind UnknownNameError) with the field and the remedy.
    """

    client_by_member: Mapping[str, MemberClient]
    limits: LimitsConfig

    def classification(self, request: ClassifyRequest, ensemble: Ensemble, *, timeout_s: float) -> Election:
        """Prepare a vote among the request's choices."""
        check_prompt(request.prompt, self.limits)
        check_choices(request.choices, self.limits)
        strategy = _strategy(request.options, ensemble.classify_strategy, has_choices=True)
        question = _question(request.options, ensemble, request.choices)
        started_s, members_until_s, until_s = self._times(strategy, timeout_s)
        scoring = ScoringRequest(request_id=request.request_id, prompt=request.prompt, choices=request.choices)
        asks = {
            voter.member: ask_for_choice(
                voter.member, self.client_by_member[voter.member], scoring, timeout_s=members_until_s - started_s
            )
            for voter in question.panel
        }
        return Election(
            ensemble=ensemble,
            strategy=strategy,
            question=question,
            asks=asks,
            started_s=started_s,
            members_until_s=members_until_s,
            until_s=until_s,
        )

    def generation(self, request: GenerateRequest, ensemble: Ensemble, *, timeout_s: float, streams: bool) -> Election:
        """Prepare a vote on completions; ``streams`` tells their text piece by piece."""
        check_prompt(request.prompt, self.limits)
        check_parameters(request.parameters, self.limits)
        strategy = _strategy(request.options, ensemble.generate_strategy, has_choices=False)
        question = _question(request.options, ensemble, ())
        started_s, members_until_s, until_s = self._times(strategy, timeout_s)
        generation = GenerationRequest(
            request_id=request.request_id,
            prompt=request.prompt,
            parameters=request.parameters.applied_to(ensemble.parameters),
        )
        ask_for = ask_for_stream if streams else ask_for_text
        asks = {
            voter.member: ask_for(
                voter.member, self.client_by_member[voter.member], generation, timeout_s=members_until_s - started_s
            )
            for voter in question.panel
        }
        return Election(
            ensemble=ensemble,
            strategy=strategy,
            question=question,
            asks=asks,
            started_s=started_s,
            members_until_s=members_until_s,
            until_s=until_s,
        )

    def _times(self, strategy: Strategy, timeout_s: float) -> tuple[float, float, float]:
        started_s = time.monotonic()
        reserve_s = timeout_s * HEAVY_RESERVE_SHARE if strategy.is_heavy else min(RESERVE_S, timeout_s * RESERVE_SHARE)
        members_s = min(self.limits.member_timeout_s, timeout_s - reserve_s)
        return started_s, started_s + members_s, started_s + timeout_s


def _strategy(options: VoteOptions, default: str, *, has_choices: bool) -> Strategy:
    if options.strategy:
        check_known("options.strategy", options.strategy, STRATEGY_NAMES)
    strategy = get_strategy(options.strategy or default)
    if task_of(strategy, has_choices=has_choices) is None:
        asked = "among choices" if has_choices else "on texts"
        raise InvalidRequestError(
            "options.strategy", f"{strategy.name!r} cannot vote {asked}", "use another strategy, or the other method"
        )
    return strategy


def _question(options: VoteOptions, ensemble: Ensemble, choices: tuple[str, ...]) -> Question:
    check_panel(options.panel, [voter.member for voter in ensemble.voters])
    check_quorum(options.quorum)
    panel = tuple(voter for voter in ensemble.voters if not options.panel or voter.member in options.panel)
    quorum = options.quorum.applied_to(ensemble.quorum)
    num_families = len({voter.family for voter in panel})
    if ensemble.fail_without_quorum and quorum.min_families > num_families:
        raise InvalidRequestError(
            "options.quorum.min_families" if options.quorum.min_families else "options.panel",
            f"the panel has {num_families} families and the quorum asks for {quorum.min_families}",
            "name members of more families, or ask for fewer",
        )
    return Question(
        panel=panel,
        quorum=quorum,
        choices=choices,
        answer_rule=ensemble.answer_rule,
    )
