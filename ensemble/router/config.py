"""The router's own options: ensembles, their defaults, and the limits of requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from ensemble.errors import InvalidRequestError
from ensemble.voting.short_answer import AnswerRule

MAX_TOKENS = 2**31 - 1
"""The protos count tokens in int32."""
MAX_SEED = 2**63 - 1
"""The protos' int64."""
MAX_STOPS = 8
LONGEST_TIMEOUT_S = 86_400.0

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
