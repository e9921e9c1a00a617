"""From a checkpoint and a recipe to a smaller checkpoint, with a record of how it came about."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers
from torch import nn

from ensemble import __version__
from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.checkpoints.folder import find_weight_files, read_config
from ensemble.checkpoints.int4_format import describe_int4
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_format import describe_int8
from ensemble.checkpoints.load import DTYPES, LoadedCheckpoint, load_checkpoint
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.storage import write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.calibration_text import CalibrationText, load_calibration_text, split_calibration_text
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.prune_layers import check_prune_layers, prune_layers
from ensemble.compression.prune_weights import find_layers_to_prune, prune_weights
from ensemble.compression.quantize_int4 import find_int4_targets, quantize_int4
from ensemble.compression.quantize_int8 import find_targets, quantize_int8
from ensemble.compression.recipe import PruneLayers, PruneWeights, QuantizeInt4, QuantizeInt8, Recipe, Step
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

RECORD_NAME = "compression.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionReport:
    """What was done to which checkpoint, and what it cost; the same facts lie in ``compression.json``.

    Sizes are those of the weights' files. The perplexities are on text that no step has seen; a classifier has none.
    """

    source: str
    source_digest: str
    output: str
    recipe: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    """What each step found out, in the recipe's order."""
    source_bytes: int
    output_bytes: int
    perplexity_before: float | None
    perplexity_after: float | None
    calibration_digest: str
    versions: dict[str, str]


def compress(
    source: str,
    recipe: Recipe,
    output: Path,
    *,
    calibration_texts: Sequence[Path] = (),
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_progress: OnPhase = ignore_phase,
) -> CompressionReport:
    """Take the recipe's steps in order and write the result as a whole folder or not at all.

    The same source, recipe and text give byte-equal weights.

    Raises:
        ConfigError: the output exists, or the recipe, the source or the text cannot be used; found before long work.
        CheckpointError: the source cannot be loaded.
    """
    if output.exists():
        raise ConfigError(str(output), "it exists already", "choose another folder, or remove it")
    text = load_calibration_text(calibration_texts)
    checkpoint = load_checkpoint(source, dtype="float32", device="cpu", cache_dir=cache_dir, on_phase=on_progress)
    _check_source(source, checkpoint, recipe)
    calibration = split_calibration_text(text, checkpoint.tokenizer)

    report = _take_steps(
        checkpoint, recipe, calibration=calibration, source=source, output=output, on_progress=on_progress
    )

    on_progress("write", 0.0)
    with write_folder_whole(output) as partial:
        _write(partial, checkpoint, recipe)
        report = replace(report, output_bytes=_count_bytes(partial))
        (partial / RECORD_NAME).write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
    on_progress("write", 1.0)
    return report


def _check_source(source: str, checkpoint: LoadedCheckpoint, recipe: Recipe) -> None:
    if "quantization_config" in read_config(checkpoint.folder):
        raise ConfigError(source, "it is quantised already", "compress the float checkpoint that it was made from")
    _check_steps(checkpoint.model, recipe)
    for name, tensor in checkpoint.model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(source, f"{name} holds weights that are not finite", "give a sound checkpoint")


def _check_steps(model: PreTrainedModel, recipe: Recipe) -> None:
    num_gone = 0
    for step in recipe.steps:
        match step:
            case PruneLayers():
                check_prune_layers(model, step, num_gone=num_gone)
                num_gone += step.num_layers
            case PruneWeights():
                find_layers_to_prune(model, step)
            case QuantizeInt8():
                find_targets(model, step)
            case QuantizeInt4():
                find_int4_targets(model, step)


def _take_steps(
    checkpoint: LoadedCheckpoint,
    recipe: Recipe,
    *,
    calibration: CalibrationText,
    source: str,
    output: Path,
    on_progress: OnPhase,
) -> CompressionReport:
    """Change the model in place; the report's ``output_bytes`` is 0, since nothing is written yet."""
    model = checkpoint.model
    on_progress("perplexity before", 0.0)
    before = None if checkpoint.is_classifier else _measure(model, calibration, where=source)
    steps = tuple(_take(model, step, calibration=calibration, on_progress=on_progress) for step in recipe.steps)
    on_progress("perplexity after", 0.0)
    after = None if checkpoint.is_classifier else _measure(model, calibration, where="recipe")
    return CompressionReport(
        source=source,
        source_digest=_read_digest(checkpoint.folder),
        output=str(output),
        recipe=recipe.model_dump(mode="json"),
        steps=steps,
        source_bytes=_count_bytes(checkpoint.folder),
        output_bytes=0,
        perplexity_before=before,
        perplexity_after=after,
        calibration_digest=calibration.digest,
        versions=_read_versions(),
    )


def _take(model: PreTrainedModel, step: Step, *, calibration: CalibrationText, on_progress: OnPhase) -> dict[str, Any]:
    match step:
        case PruneLayers():
            found = prune_layers(model, step, calibrate_WT=calibration.calibrate_WT, on_phase=on_progress)
        case PruneWeights():
            found = prune_weights(model, step, on_phase=on_progress)
        case QuantizeInt8():
            found = quantize_int8(model, step, on_phase=on_progress)
        case QuantizeInt4():
            found = quantize_int4(model, step, on_phase=on_progress)
    return {"type": step.type, **found}


def _measure(model: PreTrainedModel, calibration: CalibrationText, *, where: str) -> float:
    perplexity = measure_perplexity(model, calibration.held_out_WT)
    if not math.isfinite(perplexity):
        raise ConfigError(where, "the model's perplexity is not finite", "give a sound checkpoint, or compress it less")
    return perplexity


def _write(folder: Path, checkpoint: LoadedCheckpoint, recipe: Recipe) -> None:
    """Write the weights in the dtype that the source had; scales stay float32."""
    source_config = read_config(checkpoint.folder)
    dtype_name = source_config.get("dtype") or source_config.get("torch_dtype") or "float32"
    dtype = DTYPES.get(dtype_name, torch.float32)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() and not name.endswith(".weight_scale") else tensor
        for name, tensor in collect_tensors(checkpoint.model).items()
    }
    checkpoint.model.config.dtype = dtype
    quantization = _describe_quantization(checkpoint.model, recipe.steps[-1])
    write_checkpoint(folder, tensors, model=checkpoint.model, tokenizer=checkpoint.tokenizer, quantization=quantization)


def _describe_quantization(model: PreTrainedModel, last_step: Step) -> dict[str, Any] | None:
    layers = dict(model.named_modules())
    # In full, because other readers of the format know no short names.
    left_float = tuple(name for name, layer in layers.items() if isinstance(layer, nn.Linear))
    match last_step:
        case QuantizeInt8():
            return describe_int8(ignore=left_float)
        case QuantizeInt4():
            group_size_by_layer = {
                name: layer.group_size for name, layer in layers.items() if isinstance(layer, Int4Linear)
            }
            return describe_int4(group_size_by_layer, ignore=left_float)
    return None


def _read_digest(folder: Path) -> str:
    """Give the digest of the GGUF file that a converted folder came from, or else of the weights' files."""
    origin = folder / "origin.json"
    if origin.is_file():
        return f"sha256:{json.loads(origin.read_text('utf-8'))['sha256']}"
    digest = hashlib.sha256()
    for path in find_weight_files(folder):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def _count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in find_weight_files(folder))


def _read_versions() -> dict[str, str]:
    return {
        "ensemble": __version__,
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
