"""The engines' own options, as a spec gives them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class EmbeddedEngineConfig(BaseModel):
    """torch and transformers in this process, on a CPU or a GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["embedded"] = "embedded"
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU when the replica has one"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=0, ge=0, le=256, description="torch's threads; 0 leaves torch's default")
    max_batch: int = Field(default=16, ge=1, le=1024, description="requests decoded in one forward pass")
    max_waiting: int = Field(default=256, ge=0, description="requests that may wait for a place; more are refused")
    max_context: int = Field(default=2048, ge=8, description="prompt and completion tokens of one request together")
    max_step_tokens: int = Field(
        default=512,
        ge=8,
        description="prompt tokens read in one forward pass: running completions and aborts wait for one such pass",
    )
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


EngineConfig = Annotated[EmbeddedEngineConfig | ClassifierEngineConfig | EchoEngineConfig, Field(discriminator="type")]
