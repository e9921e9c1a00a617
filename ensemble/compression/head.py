"""The last layer of a causal model, which gives each token's logits, and may share its weight with the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def untie_head(model: PreTrainedModel, step: str) -> str:
    """Give the last layer a weight of its own where it shares one, and the config says so; gives its name.

    Raises:
        ConfigError: there is none, as in a classifier.
    """
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    name = next((name for name, module in model.named_modules() if module is head), "")
    if not isinstance(head, nn.Linear) or not name:
        raise ConfigError(
            f"{step}.quantize_head",
            f"{type(model).__name__} has no linear layer that gives tokens",
            "leave quantize_head out",
        )
    if f"{name}.weight" in model.all_tied_weights_keys:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        tied = cast("dict[str, str]", model.all_tied_weights_keys)
        model.all_tied_weights_keys = {key: source for key, source in tied.items() if key != f"{name}.weight"}
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return name
