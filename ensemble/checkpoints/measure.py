"""How large a checkpoint is, from its headers alone: no weight is read, and nothing is fetched or converted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ensemble.checkpoints.folder import find_weight_files, read_config
from ensemble.checkpoints.package_files import assemble_package_file, find_package_code, find_package_file
from ensemble.checkpoints.reference import (
    FolderReference,
    GgufReference,
    HubReference,
    PackageReference,
    StoreReference,
    parse_reference,
)
from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, find_converted
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    TensorFacts = tuple[str, str, Sequence[int]]
    """A tensor's name, its dtype by safetensors' word, and its shape."""

BYTES_BY_STORED_DTYPE = {
    **dict.fromkeys(("F64", "I64", "U64"), 8.0),
    **dict.fromkeys(("F32", "I32", "U32"), 4.0),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2.0),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1.0),
    "F4": 0.5,
}
"""Bytes of one element, by the names that safetensors gives."""
FLOAT_DTYPES = {"F64", "F32", "F16", "BF16"}
"""What loading turns into the dtype that the engine runs in; everything else stays as it lies."""

_HEADS = ("lm_head.", "output.", "score.", "classifier.")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "token_embd.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCheckpoint:
    """A checkpoint's config, and how many elements its weights have by the dtype that they are stored in.

    ``linear_elements`` are those of the floating ones that quantising at load turns into fewer bits: the weights of
    the linear layers, but for the last one, which gives the logits. ``tied_head_elements`` are those of the embeddings
    where the last layer is not stored, since it shares them.
    """

    config: Mapping[str, Any]
    elements_by_dtype: Mapping[str, int]
    linear_elements: int
    tied_head_elements: int = 0

    def weight_bytes(self, bytes_per_float: float, *, bytes_per_linear: float | None = None) -> int:
        """Give the weights' size once floats have ``bytes_per_float``, and linear layers another size if said so."""
        floats = sum(number for dtype, number in self.elements_by_dtype.items() if dtype in FLOAT_DTYPES)
        kept = sum(
            number * BYTES_BY_STORED_DTYPE[dtype]
            for dtype, number in self.elements_by_dtype.items()
            if dtype not in FLOAT_DTYPES
        )
        linear = self.linear_elements if bytes_per_linear is not None else 0
        return int(kept + (floats - linear) * bytes_per_float + linear * (bytes_per_linear or 0.0))


def measure_checkpoint(
    reference: str, *, has_weights: bool = True, cache_dir: Path = DEFAULT_CACHE_DIR
) -> MeasuredCheckpoint:
    """Measure a checkpoint by its headers; one without weights (a dummy load) by building its model without memory.

    Raises:
        CheckpointError: it is missing or damaged, or lies on the hub alone.
    """
    match parse_reference(reference):
        case FolderReference(folder=folder):
            return _measure_folder(folder) if has_weights else _imagine_folder(folder)
        case HubReference() as repository:
            cached: Path = import_module("ensemble.checkpoints.hub").find_repository(repository)
            return _measure_folder(cached) if has_weights else _imagine_folder(cached)
        case StoreReference() as stored:
            return _measure_stored(stored, has_weights=has_weights, cache_dir=cache_dir)
        case GgufReference() | PackageReference() as gguf:
            return _measure_gguf(gguf, cache_dir=cache_dir)


def _measure_folder(folder: Path) -> MeasuredCheckpoint:
    config = read_config(folder)
    return measure_tensors(
        (tensor for path in find_weight_files(folder) for tensor in _read_header(path)), config, where=str(folder)
    )


def _read_header(path: Path) -> Iterator[TensorFacts]:
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                header = file.get_slice(name)
                yield name, header.get_dtype(), header.get_shape()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), f"it is damaged or cut short ({error})", "fetch or write it again") from error


def measure_tensors(tensors: Iterable[TensorFacts], config: Mapping[str, Any], *, where: str) -> MeasuredCheckpoint:
    """Measure a checkpoint by what its headers say.

    Raises:
        CheckpointError: a tensor is of a dtype that is not known.
    """
    elements: Counter[str] = Counter()
    num_by_name: dict[str, int] = {}
    num_linear = 0
    for name, dtype, shape in tensors:
        elements[dtype] += _count(shape)
        num_by_name[name] = _count(shape)
        num_linear += _count(shape) if dtype in FLOAT_DTYPES and _is_inner_linear(name, len(shape)) else 0
    if unknown := sorted(set(elements) - set(BYTES_BY_STORED_DTYPE)):
        raise CheckpointError(where, f"it cannot be measured: its weights are {', '.join(unknown)}", "give another")
    return MeasuredCheckpoint(
        config=config,
        elements_by_dtype=dict(elements),
        linear_elements=num_linear,
        tied_head_elements=count_tied_head(num_by_name),
    )


def count_tied_head(num_by_name: Mapping[str, int]) -> int:
    """Give the elements of the embeddings that serve as the last layer, too; 0 where that has weights of its own."""
    if any(name.startswith(_HEADS) for name in num_by_name):
        return 0
    return max((number for name, number in num_by_name.items() if name.endswith(_EMBEDDINGS)), default=0)


def _is_inner_linear(name: str, num_axes: int) -> bool:
    """Say whether a tensor is a linear layer's weight inside the model's layers, which are numbered."""
    return num_axes >= 2 and name.endswith(".weight") and any(part.isdigit() for part in name.split("."))


def _imagine_folder(folder: Path) -> MeasuredCheckpoint:
    """Count the elements that a model of this config would have, each weight once."""
    config = read_config(folder)
    if config.get("quantization_config"):
        raise CheckpointError(
            str(folder),
            "it has no weights to measure, and its config is of quantised ones",
            "leave quantization_config out and set engine.quantization, or give the weights",
        )
    # They bring torch along, which takes seconds.
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    auto_class: Any = transformers.AutoModelForCausalLM
    try:
        shape = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = auto_class.from_config(shape)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            str(folder), f"it cannot be measured: its config makes no model ({error})", "mend its config.json"
        ) from error
    # Parameters that are tied come once.
    named = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    linear = sum(_count(shape) for name, shape in named if _is_inner_linear(name, len(shape)))
    total = sum(_count(shape) for _, shape in named)
    return MeasuredCheckpoint(config=config, elements_by_dtype={"F32": total}, linear_elements=linear)


def _measure_gguf(reference: GgufReference | PackageReference, *, cache_dir: Path) -> MeasuredCheckpoint:
    """Measure a GGUF file's conversion where there is one, and else what the conversion would make of it."""
    converted = find_converted(reference, cache_dir=cache_dir)
    if converted is not None:
        return _measure_folder(converted)
    match reference:
        case GgufReference(file=file):
            return _read_gguf(file)
        case PackageReference(inside=""):
            find_package_code(reference)
            with TemporaryDirectory(prefix="ensemble-measure-") as folder:
                assembled = Path(folder) / f"{reference.module}.gguf"
                assemble_package_file(reference, assembled)
                return _read_gguf(assembled)
        case PackageReference():
            return _read_gguf(find_package_file(reference))


def _read_gguf(file: Path) -> MeasuredCheckpoint:
    measured: MeasuredCheckpoint = import_module("ensemble.checkpoints.measure_gguf").measure_gguf(file)
    return measured


def _measure_stored(reference: StoreReference, *, has_weights: bool, cache_dir: Path) -> MeasuredCheckpoint:
    find_stored = import_module("ensemble.checkpoints.store_fetch").find_stored
    here: Path | None = find_stored(reference, cache_dir=cache_dir.expanduser())
    if here is not None:
        return _measure_folder(here) if has_weights else _imagine_folder(here)
    measured: MeasuredCheckpoint = import_module("ensemble.checkpoints.measure_store").measure_stored(reference)
    return measured


def _count(shape: Any) -> int:
    number = 1
    for size in shape:
        number *= int(size)
    return number
