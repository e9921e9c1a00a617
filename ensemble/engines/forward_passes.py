"""The three forward passes of the engine: whole prompts packed, more of one prompt, one token a row.

Axes: B rows, N wanted outputs, Q tokens fed, K keys seen, V vocabulary. Logits are float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ensemble.engines.attention_masks import AttentionMasks
from ensemble.engines.slot_cache import SlotCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens of one request that are read together.

    They form a tree: a token of branch 0 (the trunk) is seen by every later token of the segment, a token of another
    branch only by later ones of its own. ``outputs`` indexes the tokens whose next-token logits are wanted.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of_prompt(cls, tokens: Sequence[int], start: int = 0) -> Segment:
        """Make a trunk alone; only its last token's logits are wanted."""
        count = len(tokens)
        return cls(
            tokens=tuple(tokens),
            positions=tuple(range(start, start + count)),
            branches=(0,) * count,
            outputs=(count - 1,),
        )

    @classmethod
    def of_text(cls, tokens: Sequence[int], start: int = 0) -> Segment:
        """Make a trunk alone, every token of which is wanted."""
        return replace(cls.of_prompt(tokens, start), outputs=tuple(range(len(tokens))))


class ForwardPasses:
    """Runs a decoder-only model with explicit positions, masks and cache slots."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._masks = AttentionMasks(model.config, model.dtype)
        self._device = model.device

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def new_cache(self, *, max_rows: int, max_tokens: int) -> SlotCache:
        """Make an empty cache for this model."""
        num_layers = self._model.config.get_text_config().num_hidden_layers
        return SlotCache(num_layers=num_layers, max_rows=max_rows, max_tokens=max_tokens)

    def read(self, segments: Sequence[Segment], cache: SlotCache | None, rows: Sequence[int] = ()) -> torch.Tensor:
        """Read segments from their beginning in one packed pass; without a cache nothing is kept.

        A masked key still counts when its value is NaN, since 0 * NaN is NaN. So when a segment breaks the model's
        numbers, each is read again by itself.

        Returns:
            logits_NV of all segments' outputs, in order.
        """
        logits_NV = self._read_packed(segments, cache, rows)
        if len(segments) > 1 and bool(logits_NV.isnan().any()):
            targets = rows or [0] * len(segments)
            parts = [self._read_packed([s], cache, [row]) for s, row in zip(segments, targets, strict=True)]
            logits_NV = torch.cat(parts)
        return logits_NV

    def read_states(self, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Read texts in one packed pass, each by itself again when one breaks the model's numbers.

        Returns:
            The last hidden states of each text, states_QD in float32.
        """
        segments = [Segment.of_text(text) for text in texts]
        states_QD = self._read_packed(segments, None, (), wants_states=True)
        if len(segments) > 1 and bool(states_QD.isnan().any()):
            return [self._read_packed([segment], None, (), wants_states=True) for segment in segments]
        return list(torch.split(states_QD, [len(text) for text in texts]))

    def extend_states(self, tokens: Sequence[int], cache: SlotCache, *, start: int) -> torch.Tensor:
        """Read more of the text in the cache's first row, of which ``start`` tokens are read.

        Returns:
            states_QD of these tokens.
        """
        return self.extend(Segment.of_text(tokens, start), cache, row=0, start=start, wants_states=True)

    def _read_packed(
        self,
        segments: Sequence[Segment],
        cache: SlotCache | None,
        rows: Sequence[int],
        *,
        wants_states: bool = False,
    ) -> torch.Tensor:
        lengths = [len(segment.tokens) for segment in segments]
        if cache is not None:
            cache.plan_packed(rows, lengths, self._device)
        segment_Q = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(lengths))
        position_Q = torch.tensor([p for segment in segments for p in segment.positions])
        visible_QQ = _see_tree([b for segment in segments for b in segment.branches])
        if len(segments) > 1:
            visible_QQ &= segment_Q[:, None] == segment_Q[None, :]
        starts = [sum(lengths[:i]) for i in range(len(segments))]
        return self._run(
            [token for segment in segments for token in segment.tokens],
            position_Q=position_Q,
            mask=self._build_mask(visible_QQ, position_Q[:, None] - position_Q[None, :]),
            cache=cache,
            outputs=[start + n for start, segment in zip(starts, segments, strict=True) for n in segment.outputs],
            wants_states=wants_states,
        )

    def extend(
        self, segment: Segment, cache: SlotCache, *, row: int, start: int, wants_states: bool = False
    ) -> torch.Tensor:
        """Read more of one row, whose first ``start`` slots are a trunk that all tokens see.

        Returns:
            logits_NV of the segment's outputs, or their last hidden states when these are wanted.
        """
        count = len(segment.tokens)
        cache.plan_row(row, start=start, count=count, device=self._device)
        position_Q = torch.tensor(segment.positions)
        position_K = torch.cat([torch.arange(start), position_Q])
        visible_QK = torch.ones(count, start + count, dtype=torch.bool)
        visible_QK[:, start:] = _see_tree(segment.branches)
        return self._run(
            segment.tokens,
            position_Q=position_Q,
            mask=self._build_mask(visible_QK, position_Q[:, None] - position_K[None, :]),
            cache=cache,
            outputs=segment.outputs,
            wants_states=wants_states,
        )

    def step(self, tokens: Sequence[int], positions: Sequence[int], cache: SlotCache) -> torch.Tensor:
        """Feed one token to each of the first rows, at these positions.

        Returns:
            logits_BV.
        """
        longest = max(positions) + 1
        fed_2B = torch.tensor([tokens, positions], device=self._device)
        position_B1 = fed_2B[1][:, None]
        cache.plan_step(fed_2B[1], longest)
        distance_BK = position_B1 - torch.arange(longest, device=self._device)
        mask = self._masks.build(distance_BK[:, None, :] >= 0, distance_BK[:, None, :])
        output = self._model(
            input_ids=fed_2B[0][:, None],
            attention_mask=mask,
            position_ids=position_B1,
            past_key_values=cache,
            use_cache=True,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV.float()

    def _build_mask(
        self, visible_QK: torch.Tensor, distance_QK: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        return self._masks.build(visible_QK[None].to(self._device), distance_QK[None].to(self._device))

    def _run(
        self,
        tokens: Sequence[int],
        *,
        position_Q: torch.Tensor,
        mask: torch.Tensor | dict[str, torch.Tensor],
        cache: SlotCache | None,
        outputs: Sequence[int],
        wants_states: bool,
    ) -> torch.Tensor:
        output_N = torch.tensor(list(outputs), device=self._device)
        fed: dict[str, Any] = {
            "input_ids": torch.tensor([list(tokens)], device=self._device),
            "attention_mask": mask,
            "position_ids": position_Q[None].to(self._device),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if wants_states:
            states_QD: torch.Tensor = self._model.base_model(**fed).last_hidden_state[0]
            return states_QD[output_N].float()
        output = self._model(**fed, logits_to_keep=output_N)
        logits_NV: torch.Tensor = output.logits[0]
        return logits_NV.float()


def _see_tree(branches: Sequence[int]) -> torch.Tensor:
    """Say which tokens of a tree see which: earlier ones of the trunk or of their own branch, and themselves."""
    branch_Q = torch.tensor(branches)
    is_seen_QQ = (branch_Q[None, :] == 0) | (branch_Q[:, None] == branch_Q[None, :])
    return is_seen_QQ.tril_()
