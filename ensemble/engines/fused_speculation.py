"""Completions whose tokens one checkpoint proposes and the mixture keeps or replaces.

Axes: B rows, N positions of all rows' blocks, V vocabulary.
"""

from __future__ import annotations

import math
import time
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING, cast

import torch

from ensemble.engines.batch import Batch, Step
from ensemble.engines.forward_passes import Segment
from ensemble.engines.fused_drafts import Drafting, propose_tokens, settle_tokens
from ensemble.engines.fused_pace import Pace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.fused_passes import FusedCache, FusedPasses
    from ensemble.engines.jobs import GenerationJob, Job
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache


class SpeculativeBatch(Batch):
    """One checkpoint proposes tokens, a pass each; the others then read a block of them in one pass each.

    The proposing checkpoint belongs to the mixture, and its distributions are known from proposing: it reads nothing
    twice. A block's last token is proposed and not fed, so after a block every checkpoint has read the same tokens.
    Rows differ in how many proposals they have and keep. Each ``decode`` makes one pass: it proposes a token more for
    each row, or the others read the blocks. How long blocks are changes nothing but the rounding of a pass.
    """

    def __init__(
        self, passes: ForwardPasses, cache: PagedCache, limits: Limits, *, drafter: int, max_draft: int
    ) -> None:
        super().__init__(passes, cache, limits)
        self._fused = cast("FusedPasses", passes)
        self._caches = cast("FusedCache", cache).parts
        self._drafter = drafter
        self._drafts: dict[GenerationJob, Drafting] = {}
        self.pace = Pace(max_draft=max_draft)

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out; one whose proposals are not numbers leaves such in the cache."""
        for job in [job for job in self._drafts if job in gone]:
            proposals = self._drafts.pop(job).proposals
            job.is_broken |= any(bool(proposal.logprob_V[0].isnan()) for proposal in proposals)
        super().drop(gone)

    def decode(self, decoders: Sequence[GenerationJob]) -> Step:
        """Propose one more token for each job, or settle what is proposed."""
        drafts = [self._drafts.setdefault(job, Drafting(sampler=job.sampler)) for job in decoders]
        rooms = [min(job.num_left, self.pace.max_draft) for job in decoders]
        lengths = [len(draft.proposals) for draft in drafts]
        started_s = time.perf_counter()
        # What is proposed is kept with its distributions until it is settled, and then read in one pass.
        is_bounded = sum(lengths) + len(lengths) <= self._limits.max_outputs
        if not all(lengths) or (is_bounded and self.pace.wants_more(lengths, rooms)):
            growing = [i for i, (length, room) in enumerate(zip(lengths, rooms, strict=True)) if length < room]
            self._propose([decoders[i] for i in growing], [drafts[i] for i in growing])
            self.pace.drafting.add(len(growing), time.perf_counter() - started_s)
            return []
        step = self._settle(decoders, drafts)
        self.pace.reading.add(sum(lengths), time.perf_counter() - started_s)
        return step

    def _propose(self, jobs: Sequence[GenerationJob], drafts: Sequence[Drafting]) -> None:
        part = self._fused.parts[self._drafter]
        tokens = [
            draft.proposals[-1].token if draft.proposals else job.last_token
            for job, draft in zip(jobs, drafts, strict=True)
        ]
        rows = [job.row.view(ahead=len(draft.proposals)) for job, draft in zip(jobs, drafts, strict=True)]
        logits_BV = part.step(tokens, rows, self._caches[self._drafter])
        propose_tokens(part.normalise(logits_BV), drafts)

    def _settle(self, jobs: Sequence[GenerationJob], drafts: Sequence[Drafting]) -> Step:
        proposals = [proposal for draft in drafts for proposal in draft.proposals]
        drafted_NV = torch.stack([proposal.logprob_V for proposal in proposals])
        blocks = [
            Segment.of_text([job.last_token, *(p.token for p in draft.proposals[:-1])], job.row.num_tokens)
            for job, draft in zip(jobs, drafts, strict=True)
        ]
        mixed_NV = self._fused.mix(
            drafted_NV
            if i == self._drafter
            else part.normalise(part.read(blocks, self._caches[i], [job.row.view() for job in jobs]))
            for i, part in enumerate(self._fused.parts)
        )
        settled = settle_tokens(mixed_NV, proposals)
        spans = pairwise([0, *accumulate(len(draft.proposals) for draft in drafts)])
        return [
            token_of_job
            for job, draft, (start, end) in zip(jobs, drafts, spans, strict=True)
            for token_of_job in self._take(job, draft, settled[start:end])
        ]

    def _take(self, job: GenerationJob, draft: Drafting, settled: Sequence[tuple[int, float]]) -> Step:
        """Take the tokens up to the first that was not proposed.

        A checkpoint that breaks on a proposal is an error even where that proposal was not kept: what it left in the
        cache is no number.
        """
        pairs = zip(settled, draft.proposals, strict=True)
        num_kept = sum(1 for _ in takewhile(lambda pair: pair[0][0] == pair[1].token, pairs))
        num_taken = min(num_kept + 1, len(settled))
        self.pace.count_settled(num_kept=num_kept, num_settled=num_taken)
        taken = list(settled[:num_taken])
        if not all(math.isfinite(logprob) for _, logprob in settled):
            taken = [(settled[0][0], math.nan)]
        draft.settle(len(taken))
        job.row.num_tokens += len(taken)
        return [(job, token) for token in taken]
