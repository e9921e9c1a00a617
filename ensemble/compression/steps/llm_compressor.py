"""Modifiers of llm-compressor, run by the Python of an environment of their own, which ``make compress-env`` builds.

The library wants a newer version of compressed-tensors than vLLM, so no environment can have both.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ensemble.checkpoints.folder import find_weight_files
from ensemble.checkpoints.load_quantized import load_quantized_model
from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.decoder_layers import find_decoder_layers
from ensemble.compression.other_python import OtherPython, default_compress_python
from ensemble.compression.step import Step, StepContext, StepResult
from ensemble.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase

SCRIPT = Path(__file__).parent.parent / "llm_compressor_script.py"
_RESULT = "result.json"
CHECK_TIMEOUT_S = 600.0
"""The libraries take some seconds to import, on a slow disk minutes."""


class Modifier(BaseModel):
    """One of the library's modifiers; those left out need its training loop, which it no longer has, or a GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal[
        "AWQModifier",
        "GPTQModifier",
        "QuantizationModifier",
        "SmoothQuantModifier",
        "SparseGPTModifier",
        "WandaPruningModifier",
    ] = Field(description="the library's own name")
    options: dict[str, JsonValue] = Field(default={}, description="what the library's modifier takes, by its names")


class LlmCompressor(Step):
    """Change the model by modifiers of llm-compressor, in their order, in compressed-tensors' formats.

    A scheme with groups (``W4A16``) takes for each layer the largest of 128, 64 and 32 that divides its inputs.
    """

    is_last = True
    type: Literal["llm_compressor"] = "llm_compressor"
    modifiers: tuple[Modifier, ...] = Field(min_length=1, max_length=8, description="what the library does, in order")
    timeout_s: float = Field(
        default=86_400.0, gt=0, allow_inf_nan=False, description="the library's work is ended when it takes longer"
    )
    python: Path | None = Field(
        default=None,
        exclude=True,
        description="of the library's environment; left out, ENSEMBLE_COMPRESS_PYTHON, or .venv-compress beside ours",
    )

    def check(self, empty: PreTrainedModel) -> None:
        """Let the library look at the options and at the model without weights; this takes some seconds."""
        find_decoder_layers(empty, self.type)
        if empty.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
            raise ConfigError(self.type, f"a {type(empty).__name__} writes no text", "give a causal language model")
        python = self._find_python(min(CHECK_TIMEOUT_S, self.timeout_s))
        python.check()
        with tempfile.TemporaryDirectory(prefix="ensemble-compress-") as name:
            folder = Path(name)
            empty.config.save_pretrained(folder / "model")
            self._run(python, "check", empty, folder, seed=0)

    def estimate_passes(self, num_windows: int) -> float:
        """Every modifier sees each window twice, and works longer than that on each layer."""
        return 10.0 * num_windows * len(self.modifiers)

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Give the model and the windows to the library, and take over what it wrote."""
        done = context.progress / "done"
        remove_leftovers(done)
        if not done.exists():
            self._have_done(model, context, done)
        result: dict[str, Any] = json.loads((done / _RESULT).read_text("utf-8"))
        quantization: dict[str, Any] | None = result.pop("quantization")
        findings = {"num_layers": len(result.pop("layers")), **result}
        tensors = _load_tensors(done / "out")
        if quantization is None:
            _take_floats(model, tensors)
            return StepResult(findings=findings)
        is_readable = _take_rounded(model, done, quantization, tensors)
        return StepResult(
            findings={**findings, "embedded_engine": is_readable}, quantization=quantization, tensors=tensors
        )

    def _have_done(self, model: PreTrainedModel, context: StepContext, done: Path) -> None:
        """Have the library do its work, and keep what it wrote."""
        scratch = context.scratch
        context.on_phase("save", 0.0)
        (scratch / "model").mkdir()
        write_checkpoint(scratch / "model", collect_tensors(model), model=model, tokenizer=context.tokenizer)
        save_file({"calibrate_WT": context.calibrate_WT.contiguous()}, scratch / "windows.safetensors")
        python = self._find_python(self.timeout_s)
        result = self._run(python, "take", model, scratch, seed=context.seed, on_phase=context.on_phase)
        with write_folder_whole(done) as partial:
            for name in ("out", "floats"):
                (scratch / name).rename(partial / name)
            (partial / _RESULT).write_text(json.dumps(result), "utf-8")

    def _find_python(self, timeout_s: float) -> OtherPython:
        executable = self.python or default_compress_python()
        return OtherPython(executable=executable, where=self.type, timeout_s=timeout_s)

    def _run(
        self, python: OtherPython, action: str, model: PreTrainedModel, folder: Path, **more: Any
    ) -> dict[str, Any]:
        """Have the script do one thing; what it refuses is raised."""
        on_phase: OnPhase | None = more.get("on_phase")
        request = {
            "action": action,
            "architecture": type(model).__name__,
            "modifiers": [modifier.model_dump(mode="json") for modifier in self.modifiers],
            "num_threads": torch.get_num_threads(),
            "seed": more["seed"],
        }
        (folder / "request.json").write_text(json.dumps(request), "utf-8")
        results = []

        def hear(message: dict[str, Any]) -> None:
            if "problem" in message:
                raise ConfigError(f"{self.type}.{message['field']}", message["problem"], message["remedy"])
            if "result" in message:
                results.append(message["result"])
            elif on_phase is not None and "phase" in message:
                on_phase(message["phase"], message["share"])

        python.run(SCRIPT, folder, on_message=hear)
        if not results:
            raise ConfigError(self.type, f"{python.executable} gave no result", "build it again (make compress-env)")
        result: dict[str, Any] = results[0]
        return result


def _load_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        tensors |= load_file(path)
    return tensors


def _take_floats(model: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Put float weights in place."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if odd := sorted({*missing, *unexpected} - set(model.all_tied_weights_keys)):
        raise ConfigError("llm_compressor", f"its result disagrees with the model about {odd[0]}", "leave it out")


def _take_rounded(
    model: PreTrainedModel, folder: Path, quantization: dict[str, Any], tensors: dict[str, Tensor]
) -> bool:
    """Make the model what lies on disk; says whether its layers run here as they do there.

    Of a format that only others read, the weights are what they stand for, as floats, and inputs are not rounded.
    """
    try:
        read = load_quantized_model(folder / "out", quantization, torch.float32, auto_class=AutoModelForCausalLM)
    except CheckpointError:
        own = model.state_dict().keys()
        floats = {name: tensor for name, tensor in tensors.items() if name in own and tensor.is_floating_point()}
        _take_floats(model, floats | _load_tensors(folder / "floats"))
        return False
    for name, child in read.named_children():
        setattr(model, name, child)
    return True
