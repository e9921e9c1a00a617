"""What one token's keys and values take, from a model's config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """The sizes that a key-value cache depends on.

    Every layer counts as one that sees the whole context: an upper bound where some see a window, or keep a state.
    ``latent_size`` is what a token takes in a layer of multi-head latent attention, and 0 elsewhere.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    latent_size: int = 0
    max_context: int | None = None

    @classmethod
    def from_config(cls, where: str, config: Mapping[str, Any]) -> Self:
        """Read a ``config.json``; what it leaves out is its architecture's default, which transformers knows.

        Raises:
            CheckpointError: it says no such sizes.
        """
        text = config.get("text_config") or config
        if not _says_all(text):
            text = _complete(where, text)
        if not _says_all(text):
            raise CheckpointError(
                where,
                "its cache cannot be measured: config.json says no layers and heads",
                "state engine.kv_cache_gib where the engine has it, or give another checkpoint",
            )
        num_heads = int(text["num_attention_heads"])
        return cls(
            num_layers=int(text["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(text.get("num_key_value_heads") or num_heads),
            head_size=int(text.get("head_dim") or text["hidden_size"] // num_heads),
            latent_size=int(text.get("kv_lora_rank") or 0) and int(text["kv_lora_rank"] + text["qk_rope_head_dim"]),
            max_context=text.get("max_position_embeddings"),
        )

    def bytes_per_token(self, bytes_per_value: float, *, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> int:
        """Give what a token takes on each device: heads are split, at least one stays; layers are split, rounded up."""
        num_layers = -(-self.num_layers // pipeline_parallel)
        values = self.latent_size or 2 * self.head_size * max(1, self.num_kv_heads // tensor_parallel)
        return int(num_layers * values * bytes_per_value)


_NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size")


def _says_all(config: Mapping[str, Any]) -> bool:
    return all(isinstance(config.get(key), int) for key in _NEEDED) and "num_key_value_heads" in config


def _complete(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Have transformers read the config: it knows an architecture's defaults and its own names for the sizes."""
    # It brings torch along, which takes seconds.
    import transformers  # noqa: PLC0415

    try:
        known: Any = transformers.AutoConfig.for_model(**config).get_text_config()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            where, f"its cache cannot be measured: transformers does not know its config ({error})", "mend config.json"
        ) from error
    keys = (*_NEEDED, "head_dim", "kv_lora_rank", "qk_rope_head_dim", "max_position_embeddings")
    found = {key: getattr(known, key, None) for key in keys}
    return found | {"num_key_value_heads": getattr(known, "num_key_value_heads", None)}
