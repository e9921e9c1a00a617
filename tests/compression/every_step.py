"""Every step that a recipe can name, with what it must be told for the tiny models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter

from ensemble.compression.other_python import default_compress_python
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.compression.steps.registry import AnyStep

if TYPE_CHECKING:
    from ensemble.compression.step import Step

HAS_LLM_COMPRESSOR = default_compress_python().exists()
CLASSES: tuple[type[Step], ...] = tuple(
    step for step in get_args(get_args(AnyStep)[0]) if step is not LlmCompressor or HAS_LLM_COMPRESSOR
)
"""All that run here: one needs an environment of its own (``make compress-env``)."""
OPTIONS_BY_TYPE: dict[str, dict[str, Any]] = {
    "distill": {"tokens": 8 * 64},
    "llm_compressor": {"modifiers": [{"name": "GPTQModifier", "options": {"scheme": "W4A16", "ignore": ["lm_head"]}}]},
    "prune_layers": {"num_layers": 1},
    "prune_hidden": {"width": 16, "multiple_of": 4},
    "prune_weights": {"score": "magnitude"},
    "prune_width": {"width": 48, "multiple_of": 16},
}
"""Of a step that wants options, or whose defaults are for larger models."""
NAMES = tuple(str(step.model_fields["type"].default) for step in CLASSES)
LAST_NAMES = tuple(name for name, step in zip(NAMES, CLASSES, strict=True) if step.is_last)
FLOAT_NAMES = tuple(name for name in NAMES if name not in LAST_NAMES)
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in NAMES),
    *(("prune_weights", {"score": score}) for score in ("channel", "wanda", "sparsegpt")),
    ("prune_weights", {"score": "movement", "train_tokens": 40}),
    ("prune_weights", {"score": "sparsegpt", "pattern": "4:8"}),
    ("quantize_int4", {"method": "gptq"}),
    ("quantize_fp8", {"strategy": "tensor"}),
)
"""The steps, and others of their ways that ask for more of a model."""


def describe_step(name: str) -> dict[str, Any]:
    """Give a step as a recipe says it."""
    return {"type": name, **OPTIONS_BY_TYPE.get(name, {})}


def build_step(name: str, **options: Any) -> Step:
    """Build a step, with other options where they are given."""
    step: Step = TypeAdapter(AnyStep).validate_python({**describe_step(name), **options})
    return step
