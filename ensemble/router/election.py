"""One request on its way: who is asked what, by which rule it is decided, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ensemble.errors import InvalidRequestError
from ensemble.generation import GenerationParameters, GenerationRequest, ScoringRequest
from ensemble.router.ballots import AskForText, ask_for_choice, ask_for_stream, ask_for_text
from ensemble.router.config import CALIBRATED_STRATEGIES, LimitsConfig
from ensemble.router.fan_out import Ask
from ensemble.router.feedback import OnlineWeights, apply_factors
from ensemble.router.ports import MemberClient
from ensemble.router.request import ClassifyRequest, GenerateRequest, ParameterOverrides, StreamMode, VoteOptions
from ensemble.router.validation import (
    check_choices,
    check_known,
    check_panel,
    check_parameters,
    check_prompt,
    check_quorum,
)
from ensemble.voting.asking import AskPlan
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, build_question
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Question, Quorum, SecondRound, Strategy, task_of

RESERVE_SHARE = 0.1
"""Share of the client's time kept back for deciding and answering, and at most ``RESERVE_S``."""
RESERVE_S = 0.5
"""Far more than both take, except on a busy machine, where the whole vote would be lost for a few milliseconds."""
HEAVY_RESERVE_SHARE = 0.3
"""Share of the client's time kept back when the voting service decides."""
SECOND_ROUND_SHARE = 0.5
"""Share of the client's time kept back when models are asked about the texts before the voting service decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A configured set of members and how they vote.

    ``calibration`` has the certificates that may end a vote, and no others. ``plan`` None asks everyone at once.
    ``assistant_by_round`` names who is asked in a second round.
    """

    name: str
    voters: tuple[Voter, ...]
    classify_strategy: str
    generate_strategy: str
    quorum: Quorum
    fail_without_quorum: bool
    answer_rule: AnswerRule
    parameters: GenerationParameters
    calibration: EnsembleCalibration | None = None
    plan: AskPlan | None = None
    assistant_by_round: Mapping[SecondRound, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """A vote that can begin. Times are of the monotonic clock.

    ``corrections`` has the calibration of members whose ballots are corrected before they count. An audited vote
    waits for everyone, and is told to whoever learns weights. ``leader`` is the member that alone is streamed, if any.
    """

    request_id: str
    prompt: str
    ensemble: Ensemble
    strategy: Strategy
    question: Question
    parameters: GenerationParameters
    asks: Mapping[str, Ask]
    corrections: Mapping[str, MemberCalibration]
    plan: AskPlan | None
    is_audited: bool
    include_record: bool
    stream_mode: StreamMode = StreamMode.ALL
    leader: str = ""
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
    online: OnlineWeights | None = None

    def classification(self, request: ClassifyRequest, ensemble: Ensemble, *, timeout_s: float) -> Election:
        """Prepare a vote among the request's choices."""
        check_prompt(request.prompt, self.limits)
        check_choices(request.choices, self.limits)
        strategy = _strategy(request.options, ensemble, ensemble.classify_strategy, has_choices=True)
        scoring = ScoringRequest(request_id=request.request_id, prompt=request.prompt, choices=request.choices)

        def ask(member: str, until_s: float) -> Ask:
            return ask_for_choice(member, self.client_by_member[member], scoring, until_s=until_s)

        return self._election(request, ensemble, strategy, timeout_s=timeout_s, ask=ask)

    def generation(
        self, request: GenerateRequest, ensemble: Ensemble, *, timeout_s: float, mode: StreamMode | None
    ) -> Election:
        """Prepare a vote on completions, whose texts are told piece by piece as ``mode`` says; None tells none."""
        check_prompt(request.prompt, self.limits)
        check_parameters(request.parameters, self.limits)
        strategy = _strategy(request.options, ensemble, ensemble.generate_strategy, has_choices=False)
        generation = GenerationRequest(
            request_id=request.request_id,
            prompt=request.prompt,
            parameters=request.parameters.applied_to(ensemble.parameters),
            needs_logprob=_needs_logprob(request.options, ensemble, mode),
        )

        def asking(ask_for: AskForText) -> Callable[[str, float], Ask]:
            return lambda member, until_s: ask_for(member, self.client_by_member[member], generation, until_s=until_s)

        ask = asking(ask_for_stream if mode else ask_for_text)
        election = self._election(request, ensemble, strategy, timeout_s=timeout_s, ask=ask)
        return _streaming(election, mode, asking(ask_for_text)) if mode and mode is not StreamMode.ALL else election

    def _election(
        self,
        request: ClassifyRequest | GenerateRequest,
        ensemble: Ensemble,
        strategy: Strategy,
        *,
        timeout_s: float,
        ask: Callable[[str, float], Ask],
    ) -> Election:
        options = request.options
        is_audited = self._is_audited(request, ensemble, strategy)
        choices = request.choices if isinstance(request, ClassifyRequest) else ()
        parameters = request.parameters if isinstance(request, GenerateRequest) else ParameterOverrides()
        question = self._question(options, ensemble, strategy, choices=choices)
        if is_audited:
            question = replace(question, quorum=replace(question.quorum, stop_early=False))
        started_s = time.monotonic()
        members_until_s = started_s + self._members_s(strategy, timeout_s)
        calibration = None if options.ignore_calibration else ensemble.calibration
        return Election(
            request_id=request.request_id,
            prompt=request.prompt,
            ensemble=ensemble,
            strategy=strategy,
            question=question,
            parameters=parameters.applied_to(ensemble.parameters),
            asks={voter.member: ask(voter.member, members_until_s) for voter in question.panel},
            corrections=calibration.by_member if calibration and choices and calibration.is_for(choices) else {},
            plan=_plan(ensemble.plan, question, strategy) if ensemble.plan else None,
            is_audited=is_audited,
            include_record=options.include_record,
            started_s=started_s,
            members_until_s=members_until_s,
            until_s=started_s + timeout_s,
        )

    def _question(
        self, options: VoteOptions, ensemble: Ensemble, strategy: Strategy, *, choices: tuple[str, ...]
    ) -> Question:
        check_panel(options.panel, [voter.member for voter in ensemble.voters])
        check_quorum(options.quorum)
        panel = tuple(voter for voter in ensemble.voters if not options.panel or voter.member in options.panel)
        quorum = options.quorum.applied_to(ensemble.quorum)
        if ensemble.fail_without_quorum:
            _check_families(options, panel, quorum)
        question = build_question(
            None if options.ignore_calibration else ensemble.calibration,
            strategy.name,
            panel,
            quorum=quorum,
            choices=choices,
            answer_rule=ensemble.answer_rule,
        )
        if self.online is None or options.ignore_calibration or strategy.name in CALIBRATED_STRATEGIES:
            return question  # Stacking's weights may be negative: then a loss says nothing about them.
        return _reweighted(question, self.online.factors(ensemble.name))

    def _is_audited(self, request: ClassifyRequest | GenerateRequest, ensemble: Ensemble, strategy: Strategy) -> bool:
        """Choose audits among requests to the whole panel that are decided by a choice or a short answer."""
        if self.online is None or request.options.panel or request.options.ignore_calibration or strategy.is_heavy:
            return False
        return self.online.is_audited(request.request_id, ensemble.name)

    def _members_s(self, strategy: Strategy, timeout_s: float) -> float:
        if strategy.second_round:
            reserve_s = timeout_s * SECOND_ROUND_SHARE
        elif strategy.is_heavy:
            reserve_s = timeout_s * HEAVY_RESERVE_SHARE
        else:
            reserve_s = min(RESERVE_S, timeout_s * RESERVE_SHARE)
        return min(self.limits.member_timeout_s, timeout_s - reserve_s)


def _strategy(options: VoteOptions, ensemble: Ensemble, default: str, *, has_choices: bool) -> Strategy:
    if options.strategy:
        check_known("options.strategy", options.strategy, STRATEGY_NAMES)
    strategy = get_strategy(options.strategy or default)
    if task_of(strategy, has_choices=has_choices) is None:
        asked = "among choices" if has_choices else "on texts"
        raise InvalidRequestError(
            "options.strategy", f"{strategy.name!r} cannot vote {asked}", "use another strategy, or the other method"
        )
    kind = strategy.second_round
    if kind not in {None, SecondRound.SCORE_TEXTS} and kind not in ensemble.assistant_by_round:
        problem = f"{strategy.name!r} asks a member again ({kind}), and the ensemble names none for it"
        raise InvalidRequestError("options.strategy", problem, "use another strategy, or let the spec name one")
    return strategy


def _needs_logprob(options: VoteOptions, ensemble: Ensemble, mode: StreamMode | None) -> bool:
    """Say whether a text's log-probability is read: by the rule for ties between members, or by whoever asked for it.

    A race (FIRST_TOKEN_HEDGE) is won by the text that begins first, and a panel of one has no ties.
    """
    if options.include_logprobs or options.include_record:
        return True
    return len(options.panel or ensemble.voters) > 1 and mode is not StreamMode.FIRST_TOKEN_HEDGE


def _streaming(election: Election, mode: StreamMode, ask_for_whole: Callable[[str, float], Ask]) -> Election:
    """Stream one text alone: the leader's, who has the largest weight (the first of equals), or that of a race.

    Whoever may be streamed is asked at once, so there are no stages.
    """
    if mode is StreamMode.FIRST_TOKEN_HEDGE:
        if election.ensemble.fail_without_quorum:
            problem = "one member's text is no quorum, and the ensemble fails without its quorum"
            raise InvalidRequestError("mode", problem, "ask for the leader's text, or for everybody's")
        # One text is no vote that was calibrated.
        question = replace(election.question, calibration=None)
        return replace(election, plan=None, stream_mode=mode, is_audited=False, question=question)
    leader = max(election.question.panel, key=lambda voter: voter.weight).member
    # The leader is heard to its end whatever was certified, and then nothing is left to certify.
    calibration = election.question.calibration
    question = replace(election.question, calibration=replace(calibration, certificates=()) if calibration else None)
    whole = {member: ask_for_whole(member, election.members_until_s) for member in election.asks if member != leader}
    asks = {**election.asks, **whole}
    return replace(election, plan=None, stream_mode=mode, leader=leader, asks=asks, question=question)


def _check_families(options: VoteOptions, panel: tuple[Voter, ...], quorum: Quorum) -> None:
    num_families = len({voter.family for voter in panel})
    if quorum.min_families > num_families:
        raise InvalidRequestError(
            "options.quorum.min_families" if options.quorum.min_families else "options.panel",
            f"the panel has {num_families} families and the quorum asks for {quorum.min_families}",
            "name members of more families, or ask for fewer",
        )


def _reweighted(question: Question, factors: Mapping[str, float]) -> Question:
    """Use the weights learned from feedback.

    Confidence, certificates and label sets are about the weights they were made with: told of others, whoever lies in
    feedback could buy them. What they were is kept until a weight has really moved, and a threshold of confidence even
    then: an answer of which nobody knows how sure it is counts as a guess.
    """
    panel = apply_factors(question.panel, factors)
    if panel == question.panel:
        return question
    calibration = question.calibration
    if calibration is not None:
        calibration = replace(calibration, kappa=None, certificates=(), conformal_threshold=None)
    return replace(question, panel=panel, calibration=calibration)


def _plan(plan: AskPlan, question: Question, strategy: Strategy) -> AskPlan | None:
    """Keep the stages of those on the panel; None asks all at once, as who wants every ballot does.

    So do rules for whole texts, which have neither a confidence nor choices that could agree.
    """
    if strategy.is_heavy or not question.quorum.stop_early:
        return None
    on_panel = {voter.member for voter in question.panel}
    stages = (tuple(member for member in stage if member in on_panel) for stage in plan.stages)
    kept = tuple(stage for stage in stages if stage)
    return replace(plan, stages=kept) if len(kept) > 1 else None
