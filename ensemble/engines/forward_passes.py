"""The two forward passes of the engine: tokens of several requests packed, and one token a row.

Axes: B rows, N wanted outputs, Q tokens fed, P tokens in the cache, K keys seen, D hidden width, V vocabulary. Logits
are float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import torch

from ensemble.engines.attention_masks import AttentionMasks
from ensemble.engines.block_pool import BLOCK_TOKENS, CacheRow
from ensemble.engines.paged_cache import PagedCache
from ensemble.engines.pass_groups import group_by_length, pack_segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens of one request that are read together.

    They form a tree: a token of branch 0 (the trunk) is seen by every later token of the segment, a token of another
    branch only by later ones of its own. The trunk comes first. ``outputs`` indexes the tokens whose next-token logits
    are wanted.
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

    @property
    def num_trunk(self) -> int:
        """Tokens of the trunk."""
        return self.branches.count(0)

    @classmethod
    def of_text(cls, tokens: Sequence[int], start: int = 0) -> Segment:
        """Make a trunk alone, every token of which is wanted."""
        return replace(cls.of_prompt(tokens, start), outputs=tuple(range(len(tokens))))


class ForwardPasses:
    """Runs a decoder-only model with explicit positions, masks and cache blocks."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._masks = AttentionMasks(model.config, model.dtype)
        self._device = model.device

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def fault(self) -> str:
        """Say what was wrong with the last pass, whose logits were not numbers."""
        return "the model gave logits that are not numbers"

    def new_cache(self, *, num_tokens: int, reuses_prefixes: bool = True) -> PagedCache:
        """Make an empty cache for this model."""
        num_layers = self._model.config.get_text_config().num_hidden_layers
        return PagedCache(num_layers=num_layers, num_tokens=num_tokens, reuses_prefixes=reuses_prefixes)

    def read(
        self, segments: Sequence[Segment], cache: PagedCache | None = None, rows: Sequence[CacheRow | None] = ()
    ) -> torch.Tensor:
        """Read segments packed together; each follows what is in its row, and its trunk is added there.

        Of a segment without a row nothing is kept. A masked key still counts when its value is NaN, since 0 * NaN is
        NaN. So when a segment breaks the model's numbers, each is read again by itself.

        Returns:
            logits_NV of all segments' outputs, in order.
        """
        return torch.cat(self._read_apart(segments, cache, rows, wants_states=False))

    def read_states(
        self, segments: Sequence[Segment], cache: PagedCache | None = None, rows: Sequence[CacheRow | None] = ()
    ) -> list[torch.Tensor]:
        """Read segments as ``read`` does.

        Returns:
            The last hidden states of each segment's outputs, states_ND in float32.
        """
        return self._read_apart(segments, cache, rows, wants_states=True)

    def step(self, tokens: Sequence[int], rows: Sequence[CacheRow], cache: PagedCache) -> torch.Tensor:
        """Add one token to each row; rows that see much go apart, by their lengths.

        Returns:
            logits_BV.
        """
        groups = group_by_length([row.num_tokens + 1 for row in rows])
        if len(groups) == 1:
            return self._step_together(tokens, rows, cache)
        logits_BV = torch.cat(
            [self._step_together([tokens[b] for b in group], [rows[b] for b in group], cache) for group in groups]
        )
        return logits_BV[torch.tensor(list(chain(*groups))).argsort().to(self._device)]

    def _step_together(self, tokens: Sequence[int], rows: Sequence[CacheRow], cache: PagedCache) -> torch.Tensor:
        longest = cache.plan_step(rows, self._device)
        fed_2B = torch.tensor([tokens, [row.num_tokens for row in rows]], device=self._device)
        position_B1 = fed_2B[1][:, None]
        distance_BK = position_B1 - torch.arange(longest, device=self._device)
        mask = self._masks.build(distance_BK[:, None, :] >= 0, distance_BK[:, None, :])
        output = self._model(
            input_ids=fed_2B[0][:, None],
            attention_mask=mask,
            position_ids=position_B1,
            past_key_values=cache,
            use_cache=True,
        )
        for row in rows:
            row.num_tokens += 1
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV.float()

    def _read_apart(
        self,
        segments: Sequence[Segment],
        cache: PagedCache | None,
        rows: Sequence[CacheRow | None],
        *,
        wants_states: bool,
    ) -> list[torch.Tensor]:
        places = list(rows) or [None] * len(segments)
        sizes = [
            (len(segment.tokens), 0 if place is None else place.num_tokens)
            for segment, place in zip(segments, places, strict=True)
        ]
        outputs: list[torch.Tensor] = []
        for group in pack_segments(sizes):
            outputs += self._read_group(segments[group], cache, places[group], wants_states=wants_states)
        for segment, place in zip(segments, places, strict=True):
            if place is not None:
                place.num_tokens += segment.num_trunk
        return outputs

    def _read_group(
        self,
        segments: Sequence[Segment],
        cache: PagedCache | None,
        places: Sequence[CacheRow | None],
        *,
        wants_states: bool,
    ) -> list[torch.Tensor]:
        whole = self._read_packed(segments, cache, places, wants_states=wants_states)
        if len(segments) == 1 or not bool(whole.isnan().any()):
            return list(torch.split(whole, [len(segment.outputs) for segment in segments]))
        return [
            self._read_packed([segment], cache, [place], wants_states=wants_states)
            for segment, place in zip(segments, places, strict=True)
        ]

    def _read_packed(
        self,
        segments: Sequence[Segment],
        cache: PagedCache | None,
        places: Sequence[CacheRow | None],
        *,
        wants_states: bool,
    ) -> torch.Tensor:
        lengths = [len(segment.tokens) for segment in segments]
        starts = [0, *accumulate(lengths)]
        if cache is not None:
            self._plan_read(segments, cache, places, starts)
        output_N = torch.tensor(
            [start + n for start, segment in zip(starts, segments, strict=False) for n in segment.outputs],
            device=self._device,
        )
        fed: dict[str, Any] = {
            "input_ids": torch.tensor([[t for segment in segments for t in segment.tokens]], device=self._device),
            "attention_mask": self._mask_read(segments, places),
            "position_ids": torch.tensor([[p for segment in segments for p in segment.positions]], device=self._device),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if wants_states:
            states_QD: torch.Tensor = self._model.base_model(**fed).last_hidden_state[0]
            return states_QD[output_N].float()
        logits_NV: torch.Tensor = self._model(**fed, logits_to_keep=output_N).logits[0]
        return logits_NV.float()

    def _plan_read(
        self,
        segments: Sequence[Segment],
        cache: PagedCache,
        places: Sequence[CacheRow | None],
        starts: Sequence[int],
    ) -> None:
        stored: list[int] = []
        slots: list[int] = []
        for segment, place, start in zip(segments, places, starts, strict=False):
            if place is not None:
                stored += range(start, start + segment.num_trunk)
                slots += place.touch(segment.num_trunk)
        cache.plan_read([place for place in places if place is not None], stored, slots, self._device)

    def _mask_read(
        self, segments: Sequence[Segment], places: Sequence[CacheRow | None]
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Let each token see its row, and what it sees of its own segment."""
        segment_Q = torch.repeat_interleave(
            torch.arange(len(segments)), torch.tensor([len(s.tokens) for s in segments])
        )
        position_Q = torch.tensor([p for segment in segments for p in segment.positions])
        visible_QQ = _see_tree([b for segment in segments for b in segment.branches])
        if len(segments) > 1:
            visible_QQ &= segment_Q[:, None] == segment_Q
        num_kept = [0 if place is None else place.num_tokens for place in places]
        num_slots = torch.tensor([-(-count // BLOCK_TOKENS) * BLOCK_TOKENS for count in num_kept])
        segment_P = torch.repeat_interleave(torch.arange(len(segments)), num_slots)
        position_P = torch.cat([torch.arange(count) for count in num_slots.tolist()])
        visible_QP = (segment_Q[:, None] == segment_P) & (position_P < torch.tensor(num_kept)[segment_P])
        visible_QK = torch.cat([visible_QP, visible_QQ], dim=1)
        distance_QK = position_Q[:, None] - torch.cat([position_P, position_Q])
        return self._masks.build(visible_QK[None].to(self._device), distance_QK[None].to(self._device))


def _see_tree(branches: Sequence[int]) -> torch.Tensor:
    """Say which tokens of a tree see which: earlier ones of the trunk or of their own branch, and themselves."""
    branch_Q = torch.tensor(branches)
    is_seen_QQ = (branch_Q[None, :] == 0) | (branch_Q[:, None] == branch_Q[None, :])
    return is_seen_QQ.tril_()
