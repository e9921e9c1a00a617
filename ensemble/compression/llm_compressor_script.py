"""Changes a model in a folder by modifiers of llm-compressor; run by the Python of an environment that has the library.

That environment lacks this project, so nothing of it is imported here. The one argument is a folder with what is asked
(``request.json``), the model (``model/``: to check, its config alone), and windows of tokens (``windows.safetensors``).
What is told is a JSON object a line on standard output: ``phase`` and ``share`` on the way; at the end ``result``, or
``field``, ``problem`` and ``remedy``. Standard input stays open for as long as the answer is wanted: its end ends this.

Axes: W windows, T tokens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Read when the libraries are imported. Nothing is to be fetched, and bars would bury the errors.
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import transformers
from compressed_tensors.quantization import QuantizationStrategy, preset_name_to_scheme
from compressed_tensors.utils import match_named_modules
from llmcompressor import oneshot
from llmcompressor.core import LifecycleCallbacks, create_session
from llmcompressor.modeling.moe.linearize import get_non_linearized_moes
from llmcompressor.modifiers import ModifierFactory
from llmcompressor.pipelines.cache import IntermediatesCache
from loguru import logger
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers.utils.quantization_config import CompressedTensorsConfig

GROUP_SIZES = (128, 64, 32)
LIBRARIES = ("compressed-tensors", "llmcompressor", "torch", "transformers")
MAX_PROBLEM = 400
"""Characters of a library's message that are told."""


class RefusedError(Exception):
    """The request asks for something that cannot be done."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.told = {"field": field, "problem": " ".join(problem.split())[:MAX_PROBLEM], "remedy": remedy}


def tell(**facts: Any) -> None:
    """Write one line to whoever started this."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """End this process, and what it has started, at once when the other end of standard input is closed."""

    def wait() -> None:
        # Not through sys.stdin: the interpreter's own end would find it locked.
        while os.read(0, 1):
            pass
        # The leader of a group, where the one who started this saw to it.
        with suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def build_modifiers(model: nn.Module, asked: list[dict[str, Any]]) -> list[Any]:
    """Make the library's modifiers by their names and options, with group sizes that fit the model.

    Raises:
        RefusedError: the library does not know an option or a value.
    """
    ModifierFactory.refresh()
    built = []
    for index, modifier in enumerate(asked):
        field = f"modifiers[{index}].options"
        remedy = f"see {modifier['name']} of llm-compressor {version('llmcompressor')}"
        try:
            options = fit_group_sizes(model, dict(modifier["options"]))
            made = ModifierFactory.create(modifier["name"], allow_registered=False, allow_experimental=False, **options)
        except ValidationError as error:
            first = error.errors()[0]
            raise RefusedError(".".join([field, *map(str, first["loc"])]), first["msg"], remedy) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RefusedError(field, str(error), remedy) from error
        check_sparsity(field, made)
        built.append(made)
    return built


def fit_group_sizes(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Spell a preset with groups out for each group size: the largest that divides a layer's inputs.

    A layer that none divides stays float. Layers are named in full, as every reader of the format understands them.
    """
    name = options.get("scheme")
    preset = preset_name_to_scheme(name, []).weights if isinstance(name, str) else None
    if preset is None or preset.strategy != QuantizationStrategy.GROUP:
        return options
    targets = options.pop("targets", ["Linear"])
    targets = [targets] if isinstance(targets, str) else targets
    names_by_size: dict[int, list[str]] = {}
    for layer, module in match_named_modules(model, targets, options.get("ignore")):
        sizes = [size for size in GROUP_SIZES if size <= preset.group_size and module.weight.shape[-1] % size == 0]
        if sizes:
            names_by_size.setdefault(sizes[0], []).append(layer)
    if not names_by_size:
        raise ValueError(f"no layer among {targets} has a number of inputs that {GROUP_SIZES[-1]} divides")
    del options["scheme"]
    options["config_groups"] = {}
    for index, size in enumerate(sorted(names_by_size, reverse=True)):
        scheme = preset_name_to_scheme(name, names_by_size[size])
        scheme.weights.group_size = size
        options["config_groups"][f"group_{index}"] = scheme
    return options


def check_sparsity(field: str, modifier: Any) -> None:
    """Refuse a share of zeros that is none, and the library's own choice of shares, which fails in this version."""
    if getattr(modifier, "sparsity_profile", None):
        raise RefusedError(f"{field}.sparsity_profile", "llm-compressor fails at it", "give one sparsity, or a list")
    sparsity = getattr(modifier, "sparsity", None)
    for share in sparsity if isinstance(sparsity, list) else [sparsity]:
        if share is not None and not 0.0 < share < 1.0:
            raise RefusedError(f"{field}.sparsity", f"it is {share}", "give a share between 0 and 1")


def find_touched(model: nn.Module, modifier: Any) -> list[str]:
    """Name the layers whose weights a modifier rounds or prunes; none for one that only scales."""
    if hasattr(modifier, "resolved_targets"):
        return [name for name, _ in match_named_modules(model, modifier.resolved_targets, modifier.ignore)]
    if not hasattr(modifier, "sparsity"):
        return []
    targets = [modifier.targets] if isinstance(modifier.targets, str) else modifier.targets
    outer = [name for name, _ in match_named_modules(model, targets)]
    linear = [name for name, _ in match_named_modules(model, ["Linear"], modifier.ignore)]
    return [name for name in linear if any(name == part or name.startswith(f"{part}.") for part in outer)]


def check(model: Any, modifiers: list[Any]) -> dict[str, Any]:
    """Let the library set everything up on a model without weights, and see which layers it would change.

    Raises:
        RefusedError: the library refuses, a modifier finds no layer, or a layer shares its weight with the embeddings.
    """
    if len(get_non_linearized_moes(model)):
        # The library takes experts apart, and gives another model back.
        raise RefusedError("model", f"a {type(model).__name__} is a mixture of experts", "use another step")
    for index, modifier in enumerate(modifiers):
        field = f"modifiers[{index}].options"
        names = find_touched(model, modifier)
        if not names and (hasattr(modifier, "resolved_targets") or hasattr(modifier, "sparsity")):
            raise RefusedError(
                f"{field}.targets", "no layer of the model is among them", "name others, or ignore fewer"
            )
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        is_tied = ends[1] is not None and ends[0].weight is ends[1].weight
        if tied := [name for name in names if is_tied and model.get_submodule(name) in ends]:
            problem = f"{tied[0]} shares its weight with the embeddings"
            raise RefusedError(f"{field}.ignore", problem, f"add {tied[0]} to ignore")
    try:
        with create_session() as session:
            session.initialize(model=model, recipe=modifiers, start=-1, calib_data=[{}])
            LifecycleCallbacks.calibration_start()
    except ValidationError as error:
        raise RefusedError("modifiers", error.errors()[0]["msg"], "give a list that llm-compressor accepts") from error
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RefusedError("modifiers", str(error), "give a list that llm-compressor accepts") from error
    return {"layers": sorted({name for modifier in modifiers for name in find_touched(model, modifier)})}


def watch_layers(model: Any, modifiers: list[Any]) -> list[Any]:
    """Tell when a decoder layer is reached; every modifier that needs data goes through all of them."""
    names = [type(modifier).__name__ for modifier in modifiers if modifier.requires_calibration_data]
    block_names = model._no_split_modules or []  # noqa: SLF001 - by these the library itself cuts a model
    layers = [module for module in model.modules() if type(module).__name__ in block_names]
    place: dict[str, Any] = {"pass": 0, "layer": -1, "share": -1.0}

    def watch(index: int, layer: nn.Module) -> Any:
        def reach(*_: Any) -> None:
            if index < place["layer"]:
                place["pass"] = min(place["pass"] + 1, len(names) - 1)
            place["layer"] = index
            share = (place["pass"] + index / len(layers)) / len(names)
            if share > place["share"]:
                place["share"] = share
                tell(phase=f"{names[place['pass']]}, layer {index + 1} of {len(layers)}", share=share)

        return layer.register_forward_pre_hook(reach)

    return [watch(index, layer) for index, layer in enumerate(layers)] if names else []


def take(model: Any, modifiers: list[Any], folder: Path) -> dict[str, Any]:
    """Run the modifiers, and write the result (``out/``) and what its rounded weights are as floats (``floats/``)."""
    touched = sorted({name for modifier in modifiers for name in find_touched(model, modifier)})
    windows_WT = load_file(folder / "windows.safetensors")["calibrate_WT"]
    tell(phase="compress", share=0.0)
    hooks = watch_layers(model, modifiers)
    samples = [{"input_ids": tokens_T[None]} for tokens_T in windows_WT]
    loader: Any = DataLoader(samples, batch_size=None)  # type: ignore[arg-type]
    oneshot(model=model, recipe=modifiers, dataset=loader)
    for hook in hooks:
        hook.remove()
    tell(phase="save", share=0.0)
    model.save_pretrained(folder / "out", save_compressed=True, max_shard_size="10TB")
    description = json.loads((folder / "out/config.json").read_text("utf-8")).get("quantization_config")
    tell(phase="read again", share=0.0)
    if description is not None:
        # What it reads is what it wrote: the weights as floats come from the library's own reading.
        config = CompressedTensorsConfig(dequantize=True)
        model = type(model).from_pretrained(folder / "out", dtype=torch.float32, quantization_config=config)
    weights = {f"{name}.weight": model.get_submodule(name).weight.detach().contiguous() for name in touched}
    (folder / "floats").mkdir()
    save_file(weights, folder / "floats/model.safetensors")
    num_zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    num_weights = sum(weight.numel() for weight in weights.values())
    return {"quantization": description, "layers": touched, "zero_share": num_zeros / num_weights if touched else 0.0}


def main() -> int:
    """Do what the folder's request asks; the status is 2 where it is refused."""
    end_with_parent()
    # The library's own notices; its errors are raised.
    logger.remove()
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text("utf-8"))
    torch.manual_seed(request["seed"])
    torch.set_num_threads(request["num_threads"])
    if not torch.accelerator.is_available():
        # AWQ asks for it all the same, and torch refuses: there is nothing to pin memory for.
        IntermediatesCache.pin_memory = lambda *_args, **_options: None
    versions = {name: version(name) for name in LIBRARIES}
    try:
        config = transformers.AutoConfig.from_pretrained(folder / "model")
        model_class = getattr(transformers, request["architecture"])
        with torch.device("meta"):
            empty = model_class(config)
        modifiers = build_modifiers(empty, request["modifiers"])
        result = check(empty, modifiers)
        if request["action"] == "take":
            model = model_class.from_pretrained(folder / "model", dtype=torch.float32)
            result = take(model, build_modifiers(model, request["modifiers"]), folder)
    except RefusedError as error:
        tell(**error.told)
        return 2
    tell(result={**result, "versions": versions})
    return 0


if __name__ == "__main__":
    sys.exit(main())
