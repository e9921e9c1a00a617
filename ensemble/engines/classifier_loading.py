"""From a checkpoint to a classifier that the loop can ask, checked before it serves.

Axes: B texts, L labels, Q tokens.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.jobs import ChoiceTree
from ensemble.engines.model_loading import choose_device
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError, MemberRefusedError
from ensemble.voting.short_answer import normalise_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ensemble.checkpoints.load import LoadedCheckpoint
    from ensemble.engines.config import ClassifierEngineConfig
    from ensemble.generation import ScoringRequest

_log = logging.getLogger(__name__)
_CHECK_TEXTS = ("a", "a text that is longer than the other one by far, so that the other is filled up")
# Largest difference of logits, as a share of the largest, that rounding explains.
_ROUNDING_FLOAT32 = 1e-3
_ROUNDING_16_BIT = 0.1
# What a model whose config does not fit its tokenizer or its weights raises.
_MODEL_FAULTS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedClassifier:
    """A classifier, and how texts and labels reach it.

    ``padding`` is the token that texts are filled up with; without one a pass reads one text, as some architectures
    (GPT-2) ask. ``pads_freely`` says that a text's logits do not change when it is filled up to a longer one's length.
    ``check_texts`` are a short and a long text, in tokens, that a sound model reads.
    """

    member: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    label_by_name: Mapping[str, int]
    shown_labels: tuple[str, ...]
    text_template: PromptFormat | None
    max_batch: int
    max_context: int
    check_texts: tuple[tuple[int, ...], tuple[int, ...]]
    padding: int | None
    pads_freely: bool = False

    def encode(self, request: ScoringRequest) -> ChoiceTree:
        """Give the text's tokens, and each choice's label as its one token.

        Raises:
            MemberRefusedError: the text is empty or too long, or a choice is no label.
        """
        text = self.text_template.scoring_text(request.prompt) if self.text_template else request.prompt
        tokens = tuple(self.tokenizer(text, verbose=False)["input_ids"])
        if not text.strip() or not tokens:
            raise MemberRefusedError(self.member, "the prompt has no tokens")
        if len(tokens) > self.max_context:
            raise MemberRefusedError(
                self.member, f"the prompt has {len(tokens)} tokens and the context holds {self.max_context}"
            )
        if not request.choices:
            raise MemberRefusedError(self.member, "there are no choices")
        return ChoiceTree(prompt=tokens, choices=tuple((self._find_label(choice),) for choice in request.choices))

    def _find_label(self, choice: str) -> int:
        label = self.label_by_name.get(normalise_answer(choice))
        if label is None:
            raise MemberRefusedError(
                self.member, f"{choice!r} is none of its labels, which are {', '.join(self.shown_labels)}"
            )
        return label

    def compute_logits(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read texts in one forward pass, shorter ones filled up at their ends; gives logits_BL in float32 on the CPU.

        A GPU's fault surfaces here, because the logits are waited for.
        """
        longest = max(map(len, texts))
        padding = 0 if self.padding is None else self.padding
        device = self.model.device
        token_BQ = torch.tensor([[*text, *[padding] * (longest - len(text))] for text in texts], device=device)
        length_B = torch.tensor([len(text) for text in texts], device=device)
        mask_BQ = (torch.arange(longest, device=device) < length_B[:, None]).long()
        logits_BL: torch.Tensor = self.model(input_ids=token_BQ, attention_mask=mask_BQ).logits
        return logits_BL.float().cpu()


def load_classifier(
    config: ClassifierEngineConfig,
    *,
    checkpoint: str,
    member: str,
    prompt_format: PromptFormat,
    cache_dir: Path,
    on_phase: OnPhase = ignore_phase,
) -> LoadedClassifier:
    """Load a classifier and find out how it can be batched.

    Raises:
        CheckpointError: it is missing, cut short, no classifier, cannot read a text, or two labels have one name.
        ConfigError: the machine lacks what the config asks for.
    """
    # Checkpoints pull in converters and hubs: only when one is loaded.
    from ensemble.checkpoints import load_checkpoint  # noqa: PLC0415

    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    loaded = load_checkpoint(checkpoint, dtype=config.dtype, device=device, cache_dir=cache_dir, on_phase=on_phase)
    if not loaded.is_classifier:
        raise CheckpointError(checkpoint, "it is no sequence classifier", "set engine.type to embedded")
    labels = [str(label) for _, label in sorted((loaded.model.config.id2label or {}).items())]
    if len({normalise_answer(label) for label in labels}) < max(2, len(labels)):
        raise CheckpointError(checkpoint, f"its labels are not distinct names: {labels}", "name them in id2label")
    on_phase("warm up", 0.0)
    try:
        classifier = _prepare(loaded, config, labels=labels, member=member, prompt_format=prompt_format)
        classifier = replace(classifier, pads_freely=_pads_freely(classifier, checkpoint))
    except _MODEL_FAULTS as error:
        raise CheckpointError(checkpoint, f"it cannot read a text ({error!r})", "mend its config") from error
    _log.info("member %s: loaded %s on %s, labels %s", member, checkpoint, device, ", ".join(labels))
    return classifier


def _prepare(
    loaded: LoadedCheckpoint,
    config: ClassifierEngineConfig,
    *,
    labels: Sequence[str],
    member: str,
    prompt_format: PromptFormat,
) -> LoadedClassifier:
    tokenizer = loaded.tokenizer
    max_context = min(config.max_context, _count_positions(loaded.model), tokenizer.model_max_length)
    short, long = (tuple(tokenizer(text)["input_ids"][:max_context]) for text in _CHECK_TEXTS)
    return LoadedClassifier(
        member=member,
        model=loaded.model,
        tokenizer=tokenizer,
        label_by_name={normalise_answer(label): index for index, label in enumerate(labels)},
        shown_labels=tuple(labels),
        text_template=prompt_format if "score_template" in prompt_format.model_fields_set else None,
        max_batch=config.max_batch,
        max_context=max_context,
        check_texts=(short, long),
        padding=_find_padding(loaded.model, tokenizer),
    )


def _count_positions(model: PreTrainedModel) -> int:
    """Give the most tokens that a model has positions for, a huge number where it has no limit."""
    limits: list[int] = [getattr(model.config, "max_position_embeddings", None) or sys.maxsize]
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        # RoBERTa and its kin number a text's tokens from padding_idx + 1 on.
        if name.endswith("position_embeddings") and padding is not None:
            limits.append(cast("nn.Embedding", module).weight.shape[0] - padding - 1)
    return min(limits)


def _find_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Give the tokenizer's padding token, or else the model's; one that has no embedding is none."""
    num_embeddings = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    known = (tokenizer.pad_token_id, getattr(model.config.get_text_config(), "pad_token_id", None))
    return next((token for token in known if token is not None and 0 <= token < num_embeddings), None)


@torch.inference_mode()
def _pads_freely(classifier: LoadedClassifier, checkpoint: str) -> bool:
    """Compare a text alone with the same one beside a longer text; some architectures (FNet) mix the filling in."""
    alone_L = classifier.compute_logits(classifier.check_texts[:1])[0]
    if not bool(alone_L.isfinite().all()):
        raise CheckpointError(checkpoint, "it gives logits that are not numbers", "take an undamaged one")
    if classifier.padding is None:
        return False
    together_L = classifier.compute_logits(classifier.check_texts)[0]
    rounding = _ROUNDING_FLOAT32 if classifier.model.dtype == torch.float32 else _ROUNDING_16_BIT
    return bool((together_L - alone_L).abs().max() <= rounding * alone_L.abs().max())
