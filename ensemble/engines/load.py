"""From an engine's config to an engine; an implementation is imported only when a spec names it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.engines.config import EngineConfig
from ensemble.engines.engine import Engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import ConfigError

# A new engine is one file and one line here.
_CLASS_BY_TYPE = {
    "classifier": ("ensemble.engines.classifier", "ClassifierEngine"),
    "echo": ("ensemble.engines.echo", "EchoEngine"),
    "embedded": ("ensemble.engines.embedded", "EmbeddedEngine"),
    "fused": ("ensemble.engines.fused", "FusedEngine"),
    "vllm": ("ensemble.engines.vllm_engine", "VllmEngine"),
}

_EXTRA_BY_TYPE = {"classifier": "embedded", "fused": "embedded"}


def build_engine(
    config: EngineConfig,
    *,
    checkpoint: str,
    member: str,
    prompt_format: PromptFormat,
    cache_dir: Path = DEFAULT_CACHE_DIR,
) -> Engine:
    """Make the engine that the config names; ``start`` loads the checkpoint, converted into ``cache_dir`` if need be.

    Raises:
        ConfigError: the packages that this engine needs are not installed.
    """
    module_name, class_name = _CLASS_BY_TYPE[config.type]
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "engine.type",
            f"{config.type} needs the package {error.name}",
            f'pip install "ensemble-serving[{_EXTRA_BY_TYPE.get(config.type, config.type)}]"',
        ) from error
    engine: Engine = getattr(module, class_name)(
        config, checkpoint=checkpoint, member=member, prompt_format=prompt_format, cache_dir=cache_dir
    )
    return engine
