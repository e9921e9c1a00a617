"""The spec of an application: members, ensembles, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ensemble.engines.config import EmbeddedEngineConfig, EngineConfig
from ensemble.engines.prompt_format import PromptFormat
from ensemble.router.config import EnsembleConfig, LimitsConfig, Name
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.strategy import task_of

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HEAVIEST = 1e6
"""A member's greatest weight: far above any sensible one, far below where sums of weights lose their exactness."""


class ResourcesConfig(BaseModel):
    """What Ray reserves for one replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: float = Field(default=1.0, ge=0.0, allow_inf_nan=False, description="cores, fractions allowed")
    gpus: float = Field(
        default=0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="GPUs; a fraction is a share of one, of its memory as well; the GPUs of a parallel engine together",
    )
    memory_gib: float = Field(default=0.0, ge=0.0, allow_inf_nan=False, description="0 reserves none")

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs cannot be had: above one, only whole ones")
        return gpus


class MemberConfig(BaseModel):
    """One model variant: what it runs, where, and what its ballot counts for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    family: Name = Field(description="members made from one base model share a family")
    checkpoint: str = Field(
        default="",
        description="Hugging Face id, folder, GGUF file, package:NAME/FILE.gguf, store:NAME, cache:NAME in the cache",
    )
    checkpoint_digest: str = Field(
        default="",
        pattern=r"^(sha256:[0-9a-f]{64})?$",
        description="replicas start on these very bytes alone: the checkpoint's, those of a fused group's others, and "
        "those of a LoRA adapter; `ensemble digest`, given all of them in this order, prints what to write here",
    )
    engine: EngineConfig = EmbeddedEngineConfig()
    prompt: PromptFormat = PromptFormat()
    replicas: int = Field(default=1, ge=1, le=1_000)
    resources: ResourcesConfig = ResourcesConfig()
    weight: float = Field(default=1.0, gt=0, le=HEAVIEST, allow_inf_nan=False, description="what a ballot counts for")

    @field_validator("engine", mode="before")
    @classmethod
    def _embedded_when_not_named(cls, engine: Any) -> Any:
        return {"type": "embedded", **engine} if isinstance(engine, Mapping) else engine

    @model_validator(mode="after")
    def _needs_checkpoint(self) -> Self:
        if self.engine.type != "echo" and not self.checkpoint:
            raise ValueError("an engine with a model needs a checkpoint")
        if self.checkpoint_digest and not self.checkpoint:
            raise ValueError("checkpoint_digest pins a checkpoint, and there is none")
        return self

    @model_validator(mode="after")
    def _cuda_needs_gpu(self) -> Self:
        if self.engine.type != "echo" and self.engine.device == "cuda" and not self.resources.gpus:
            raise ValueError("engine.device is cuda, but resources.gpus is 0; give it a GPU or a fraction of one")
        return self

    @model_validator(mode="after")
    def _parallel_needs_gpus(self) -> Self:
        if self.num_parallel > 1 and self.resources.gpus != self.num_parallel:
            raise ValueError(
                f"tensor_parallel_size times pipeline_parallel_size is {self.num_parallel}, but resources.gpus is "
                f"{self.resources.gpus:g}; a replica takes that many whole GPUs, so make them equal"
            )
        return self

    @property
    def num_parallel(self) -> int:
        """GPUs that one replica's engine splits its model over; 1 where it does not."""
        sizes = (getattr(self.engine, f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        return math.prod(sizes)

    @property
    def checkpoint_by_field(self) -> dict[str, str]:
        """What its engine loads, by the field that names it: its checkpoint, and the others of a fused group."""
        others = getattr(self.engine, "others", ())
        named = {"checkpoint": self.checkpoint, **{f"engine.others[{n}]": other for n, other in enumerate(others)}}
        return {field: reference for field, reference in named.items() if reference}

    @property
    def adapter(self) -> str:
        """The folder of the LoRA adapter that its engine puts on the checkpoint; empty where there is none."""
        return str(getattr(self.engine, "lora", ""))

    @property
    def has_weights(self) -> bool:
        """Whether its checkpoint needs weights; a dummy load makes them up."""
        return getattr(self.engine, "load_format", "") != "dummy"

    @property
    def is_on_gpu(self) -> bool:
        """Whether its engine runs on a GPU: it has one, and does not refuse it."""
        return self.resources.gpus > 0 and getattr(self.engine, "device", "cpu") != "cpu"


class TlsConfig(BaseModel):
    """TLS of the router's port: PEM files on every machine that runs a router, read again when they change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: str = Field(min_length=1, description="the server's own, then those between it and its CA")
    key: str = Field(min_length=1, description="the certificate's, without a password")
    client_ca: str = Field(default="", description="where given, clients must show a certificate that comes from it")
    health_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="answers health checks alone, without TLS, for probes that know none; 0 opens none",
    )


class RouterConfig(BaseModel):
    """The router deployment, which owns the endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="0.0.0.0 listens on every address")
    port: int = Field(default=9000, ge=1, le=65_535, description="replicas on one node share it")
    replicas: int = Field(default=1, ge=1, le=1_000)
    max_per_node: int = Field(
        default=0,
        ge=0,
        le=100,
        description="replicas on one node at most; 0 is no bound; with one, updates end replicas before new ones start",
    )
    notice_s: float = Field(
        default=0.0, ge=0.0, le=60.0, description="a replica that ends takes new calls so long after health says so"
    )
    cpus: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    tls: TlsConfig | None = Field(default=None, description="left out, the port speaks plain gRPC")

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.tls and self.tls.health_port == self.port:
            raise ValueError(f"tls.health_port is {self.port}, which is the router's own port; choose another")
        return self


class VotingConfig(BaseModel):
    """The voting deployment, which counts heavy strategies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: int = Field(default=1, ge=1, le=1_000)
    threads: int = Field(default=2, ge=1, le=256)
    cpus: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class ServingConfig(BaseModel):
    """How deployments come and go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drain_timeout_s: Positive = Field(
        default=30.0, description="calls under way may take this long when a replica stops"
    )
    start_timeout_s: Positive = Field(default=600.0, description="the application must be up by then")
    health_check_period_s: Positive = 5.0
    health_check_timeout_s: Positive = 15.0
    http_proxy: bool = Field(default=False, description="Serve's HTTP proxy, which KubeRay probes")
    revision: str = Field(default="", description="change it to replace every replica, one after another")


class Spec(BaseModel):
    """One application: the members, the ensembles they form, and how they are served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="of this format")
    name: Name = "ensemble"
    members: tuple[MemberConfig, ...] = Field(min_length=1)
    ensembles: tuple[EnsembleConfig, ...] = Field(min_length=1)
    router: RouterConfig = RouterConfig()
    voting: VotingConfig = VotingConfig()
    limits: LimitsConfig = LimitsConfig()
    serving: ServingConfig = ServingConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        _check_unique("members", [member.name for member in self.members])
        _check_unique("ensembles", [ensemble.name for ensemble in self.ensembles])
        for index, ensemble in enumerate(self.ensembles):
            where = f"ensembles[{index}]"
            self._check_members(where, ensemble)
            _check_strategy(f"{where}.classify_strategy", ensemble, ensemble.classify_strategy, has_choices=True)
            _check_strategy(f"{where}.generate_strategy", ensemble, ensemble.generate_strategy, has_choices=False)
            if ensemble.generation.max_tokens > self.limits.max_tokens:
                tokens, most = ensemble.generation.max_tokens, self.limits.max_tokens
                raise ValueError(f"{where}.generation.max_tokens is {tokens}, but limits.max_tokens is {most}")
        return self

    @model_validator(mode="after")
    def _feedback_has_one_home(self) -> Self:
        folders = {ensemble.feedback.state_dir for ensemble in self.ensembles if ensemble.feedback}
        if len(folders) > 1:
            raise ValueError(f"feedback.state_dir must be the same for all ensembles, and is {', '.join(folders)}")
        return self

    def _check_members(self, where: str, ensemble: EnsembleConfig) -> None:
        family_by_member = {member.name: member.family for member in self.members}
        _check_unique(f"{where}.members", list(ensemble.members))
        named = [("members", member) for member in ensemble.members]
        assistants = ensemble.assistants.model_dump(exclude_none=True)
        named += [(f"assistants.{role}", member) for role, member in assistants.items()]
        for key, member in named:
            if member not in family_by_member:
                known = ", ".join(family_by_member)
                raise ValueError(f"{where}.{key} names {member!r}, which is no member; the members are: {known}")
        num_families = len({family_by_member[member] for member in ensemble.members})
        if ensemble.quorum.min_families > num_families:
            wanted = ensemble.quorum.min_families
            raise ValueError(f"{where}.quorum.min_families is {wanted}, but its members have {num_families}")


def _check_unique(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} names {name!r} twice")


def _check_strategy(where: str, ensemble: EnsembleConfig, name: str, *, has_choices: bool) -> None:
    known = ", ".join(STRATEGY_NAMES)
    if name not in STRATEGY_NAMES:
        raise ValueError(f"{where} is {name!r}, which is no strategy; the strategies are: {known}")
    if task_of(get_strategy(name), has_choices=has_choices) is None:
        raise ValueError(f"{where} is {name!r}, which cannot vote on this; the strategies are: {known}")
    role, assistant = ensemble.assistants.for_round(get_strategy(name).second_round)
    if role and assistant is None:
        raise ValueError(f"{where} is {name!r}, which needs a member to ask again; name it as assistants.{role}")
