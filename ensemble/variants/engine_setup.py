"""How the models of a comparison are run: alike, but for what a family needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.engines.config import ClassifierEngineConfig, EmbeddedEngineConfig, EngineConfig, VllmEngineConfig
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat

if TYPE_CHECKING:
    from ensemble.engines.engine import Engine

EngineName = Literal["embedded", "vllm"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """Which engine runs a model, and how; prompts are never kept between requests, which would be timed otherwise."""

    engine: EngineName = "embedded"
    device: DeviceName = "auto"
    dtype: DtypeName = "float32"
    threads: int = 0
    max_batch: int = 16
    max_context: int = 512
    add_bos: bool | None = None
    prompt: PromptFormat = field(default_factory=PromptFormat)
    cache_dir: Path = DEFAULT_CACHE_DIR

    def config(self, *, is_classifier: bool = False) -> EngineConfig:
        """Say it in the engine's own words."""
        if is_classifier:
            dtype = "float32" if self.dtype == "auto" else self.dtype
            return ClassifierEngineConfig(device=self.device, dtype=dtype, threads=self.threads)
        kind = EmbeddedEngineConfig if self.engine == "embedded" else VllmEngineConfig
        return kind(
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            max_batch=self.max_batch,
            max_context=self.max_context,
            prefix_caching=False,
            add_bos=self.add_bos,
        )

    def build(self, checkpoint: str, member: str, *, is_classifier: bool = False) -> Engine:
        """Make the engine, not yet started.

        Raises:
            ConfigError: the packages that it needs are not installed.
        """
        config = self.config(is_classifier=is_classifier)
        return build_engine(
            config, checkpoint=checkpoint, member=member, prompt_format=self.prompt, cache_dir=self.cache_dir
        )
