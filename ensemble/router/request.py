"""What a client asks of the router, in our own types, and what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from ensemble.generation import GenerationParameters
from ensemble.voting.ballot import Abstention, Ballot
from ensemble.voting.decision import Decision
from ensemble.voting.record import VoteRecord
from ensemble.voting.strategy import Quorum


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumOverrides:
    """The quorum's fields that a request sets; None keeps the ensemble's."""

    min_weight: float | None = None
    min_families: int | None = None
    stop_early: bool | None = None

    def applied_to(self, quorum: Quorum) -> Quorum:
        """Give ``quorum`` with the fields set here."""
        return Quorum(
            min_weight=quorum.min_weight if self.min_weight is None else self.min_weight,
            min_families=quorum.min_families if self.min_families is None else self.min_families,
            stop_early=quorum.stop_early if self.stop_early is None else self.stop_early,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterOverrides:
    """The generation parameters that a request sets; None (or no stop string) keeps the ensemble's."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def applied_to(self, parameters: GenerationParameters) -> GenerationParameters:
        """Give ``parameters`` with the fields set here."""
        fields = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        given = {name: value for name, value in fields.items() if value is not None}
        return replace(parameters, **given, stop=self.stop or parameters.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteOptions:
    """How one request departs from the ensemble's defaults; empty means the default.

    ``ignore_calibration`` counts raw ballots with the spec's weights, as if nothing had been learned.
    ``include_record`` asks for the record of the decision, too. ``include_logprobs`` asks for every text's
    log-probability also where nothing depends on it, so that members may leave it out; a record has it.
    """

    strategy: str = ""
    panel: tuple[str, ...] = ()
    quorum: QuorumOverrides = field(default_factory=QuorumOverrides)
    ignore_calibration: bool = False
    include_record: bool = False
    include_logprobs: bool = False


class StreamMode(StrEnum):
    """Whose text a stream tells while members answer."""

    ALL = "all"
    LEADER = "leader"
    """That of the member with the largest weight; the vote confirms it or replaces it, and waits for it."""
    FIRST_TOKEN_HEDGE = "first_token_hedge"  # noqa: S105 - no password
    """That of the member whose text begins first. The others are stopped there and then, and no vote is held: a hedge
    against members that are slow to begin, not against wrong answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyRequest:
    """A question with given choices. An empty ``ensemble`` means the default one."""

    request_id: str
    ensemble: str
    prompt: str
    choices: tuple[str, ...]
    options: VoteOptions = field(default_factory=VoteOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A prompt to be completed. An empty ``ensemble`` means the default one."""

    request_id: str
    ensemble: str
    prompt: str
    parameters: ParameterOverrides = field(default_factory=ParameterOverrides)
    options: VoteOptions = field(default_factory=VoteOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """The next characters of one member's completion."""

    member: str
    text: str


Event = TextPiece | Ballot | Abstention | VoteRecord | Decision
"""What a stream tells, in the order of arrival: last and once the decision, and before it the record, if asked for."""
