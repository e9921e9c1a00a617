"""The router's own options: ensembles, their defaults, and the limits of requests."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from ensemble.errors import InvalidRequestError
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import SecondRound

MAX_TOKENS = 2**31 - 1
"""The protos count tokens in int32."""
MAX_SEED = 2**63 - 1
"""The protos' int64."""
MAX_STOPS = 8
LONGEST_TIMEOUT_S = 86_400.0
CALIBRATED_STRATEGIES = frozenset({"stacking"})
"""Strategies that cannot count without a calibration."""

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=63),
    Field(description="letters, digits, dot, dash and underscore; at most 63"),
]


class QuorumConfig(BaseModel):
    """How much of the panel a decision needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_weight: float = Field(
        default=0.5, ge=0.0, le=1.0, allow_inf_nan=False, description="share of the panel's weight"
    )
    min_families: int = Field(default=1, ge=1, description="families with a ballot")
    stop_early: bool = Field(default=True, description="stop when no ballot still out can change the answer")
    risk: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        allow_inf_nan=False,
        description="stop also where the calibration bounds the share of answers that this changes by it; 0 never",
    )
    on_missed: Literal["degrade", "fail"] = Field(default="degrade", description="answer all the same, marked, or fail")


class AnswerConfig(BaseModel):
    """How a short answer is read from a completion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extract: Literal["auto", "first_line", "last_number", "pattern"] = "auto"
    pattern: str = Field(
        default="", max_length=512, validate_default=True, description="regular expression, for extract: pattern"
    )

    @field_validator("pattern")
    @classmethod
    def _fits_extract(cls, pattern: str, info: ValidationInfo) -> str:
        # Without `extract` it was bad itself, and that is told already.
        if "extract" in info.data:
            try:
                AnswerRule(extract=info.data["extract"], pattern=pattern)
            except InvalidRequestError as error:
                raise ValueError(f"{error.problem}; {error.remedy}") from error
        return pattern


class GenerationConfig(BaseModel):
    """How completions are drawn unless the request says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(default=128, ge=1, le=MAX_TOKENS, description="at most limits.max_tokens")
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(default=(), max_length=MAX_STOPS)


class AskingConfig(BaseModel):
    """Who is asked, and when: everyone at once, or stage by stage while those asked so far are not enough."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["all", "staged", "cascade"] = Field(
        default="all",
        description="staged: until the vote is decided or sure enough; cascade: until all ballots of a stage agree",
    )
    stages: tuple[Annotated[tuple[Name, ...], Field(min_length=1)], ...] = Field(
        default=(), description="every member once, in the order of asking; for staged and cascade"
    )
    min_confidence: float = Field(
        default=1.0, gt=0.0, le=1.0, allow_inf_nan=False, description="for staged: sure enough; needs a calibration"
    )

    @model_validator(mode="after")
    def _fits_policy(self) -> Self:
        if self.policy == "all" and self.stages:
            raise ValueError("stages are for the policies staged and cascade; the policy is all")
        if self.policy != "all" and len(self.stages) < 2:
            raise ValueError(f"the policy {self.policy} needs 2 stages or more, and there are {len(self.stages)}")
        if self.policy != "staged" and self.min_confidence < 1.0:
            raise ValueError(f"min_confidence is for the policy staged; the policy is {self.policy}")
        return self

    @property
    def asks_all(self) -> bool:
        """Whether everyone is asked at once."""
        return self.policy == "all"


class AssistantsConfig(BaseModel):
    """Members that serve strategies with a second round; they need not vote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: Name | None = Field(default=None, description="says which text is best, for judge")
    fuser: Name | None = Field(default=None, description="writes one text from all, for fuse")
    embedder: Name | None = Field(default=None, description="embeds texts, for strategies that compare them so")

    def for_round(self, second_round: SecondRound | None) -> tuple[str, str | None]:
        """Name the role that a second round needs, empty when it needs none, and who has it."""
        match second_round:
            case SecondRound.EMBED:
                return "embedder", self.embedder
            case SecondRound.JUDGE:
                return "judge", self.judge
            case SecondRound.FUSE:
                return "fuser", self.fuser
            case _:
                return "", None


class FeedbackConfig(BaseModel):
    """How an ensemble learns weights from feedback, on requests that it chose to audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audit_share: float = Field(
        default=0.02, gt=0.0, le=1.0, allow_inf_nan=False, description="of requests that every member votes on"
    )
    learning_rate: float = Field(
        default=0.05, gt=0.0, le=1.0, allow_inf_nan=False, description="the most that one feedback moves a log-weight"
    )
    max_shift: float = Field(
        default=1.0, gt=0.0, le=10.0, allow_inf_nan=False, description="the most that all feedback moves a log-weight"
    )
    state_dir: str = Field(
        min_length=1, description="a folder for what was learned, from the spec's; all nodes must share it"
    )


class EnsembleConfig(BaseModel):
    """One ensemble: which members vote, and by which rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    members: tuple[Name, ...] = Field(min_length=1, description="in the order that breaks the last ties")
    classify_strategy: str = "weighted_vote"
    generate_strategy: str = "mbr"
    quorum: QuorumConfig = QuorumConfig()
    answer: AnswerConfig = AnswerConfig()
    generation: GenerationConfig = GenerationConfig()
    calibration: str = Field(default="", description="file of `ensemble calibrate`, from the spec's folder")
    asking: AskingConfig = AskingConfig()
    abstain_below: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="an answer with less confidence is marked as withheld; unset takes the calibration's threshold",
    )
    label_set_alpha: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        allow_inf_nan=False,
        description="the error rate that the calibration's label sets must have been made for; unset takes any",
    )
    assistants: AssistantsConfig = AssistantsConfig()
    feedback: FeedbackConfig | None = None

    @model_validator(mode="after")
    def _stages_are_the_members(self) -> Self:
        staged = [member for stage in self.asking.stages for member in stage]
        if not self.asking.asks_all and sorted(staged) != sorted(self.members):
            raise ValueError(
                f"asking.stages have {', '.join(staged)}, and the members are {', '.join(self.members)}; "
                "each must stand in one stage"
            )
        return self

    @model_validator(mode="after")
    def _risk_is_of_votes_asked_at_once(self) -> Self:
        if self.quorum.risk > 0.0 and not self.asking.asks_all:
            raise ValueError(
                f"quorum.risk is certified for votes of everyone asked at once; the policy {self.asking.policy} "
                "ends the easy ones before, so leave one out"
            )
        return self

    @model_validator(mode="after")
    def _calibration_is_there(self) -> Self:
        needed_for = {
            "quorum.risk": self.quorum.risk > 0.0,
            "asking.min_confidence": self.asking.min_confidence < 1.0,
            "abstain_below": self.abstain_below is not None,
            "label_set_alpha": self.label_set_alpha is not None,
            f"classify_strategy {self.classify_strategy}": self.classify_strategy in CALIBRATED_STRATEGIES,
        }
        wanting = [name for name, is_needed in needed_for.items() if is_needed]
        if wanting and not self.calibration:
            raise ValueError(f"{', '.join(wanting)} needs a calibration; make one with `ensemble calibrate`")
        about_weights = [name for name in wanting if not name.startswith("classify_strategy")]
        if about_weights and self.feedback:
            raise ValueError(
                f"{', '.join(about_weights)} is about the calibrated weights, which feedback would move; leave one out"
            )
        return self


class LimitsConfig(BaseModel):
    """What a request may be, and how long things may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_prompt_chars: int = Field(default=32_768, ge=1)
    max_choices: int = Field(default=64, ge=2)
    max_choice_chars: int = Field(default=1_024, ge=1)
    max_tokens: int = Field(
        default=2_048, ge=1, le=MAX_TOKENS, description="the most completion tokens that a request may ask for"
    )
    max_concurrent: int = Field(default=512, ge=1, description="requests under way in one router replica")
    max_message_bytes: int = Field(default=1 << 20, ge=1_024, le=1 << 28)
    request_timeout_s: float = Field(
        default=60.0, gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False, description="for requests without a deadline"
    )
    member_timeout_s: float = Field(
        default=30.0, gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False, description="the most a vote waits for a member"
    )
    pick_timeout_s: float = Field(
        default=2.0, gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False, description="the most a call waits for a replica"
    )
