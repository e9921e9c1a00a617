"""How long the blocks of proposals become."""

from __future__ import annotations

import pytest

from ensemble.engines.fused_pace import CostLine, Pace

MAX_DRAFT = 8


def _block(pace: Pace, *, draft_s: float, read_s: float, token_s: float, room: int = 100) -> int:
    """Go through one block as the batch does, with passes that take so long."""
    length = 1
    pace.drafting.add(1, draft_s)
    while pace.wants_more([length], [room]):
        pace.drafting.add(1, draft_s)
        length += 1
    pace.reading.add(length, read_s + token_s * length)
    return length


def _settled_length(*, share_kept: float, draft_s: float, read_s: float = 1.0, token_s: float = 0.05) -> int:
    pace = Pace(max_draft=MAX_DRAFT)
    for _ in range(100):
        length = _block(pace, draft_s=draft_s, read_s=read_s, token_s=token_s)
        num_settled = 20
        pace.count_settled(num_kept=round(share_kept * num_settled), num_settled=num_settled)
    return length


def _best_length(*, share_kept: float, draft_s: float, read_s: float = 1.0, token_s: float = 0.05) -> int:
    """Try every length."""

    def tokens_per_s(length: int) -> float:
        tokens = sum(share_kept**i for i in range(length))
        return tokens / (length * draft_s + read_s + token_s * length)

    return max(range(1, MAX_DRAFT + 1), key=tokens_per_s)


# 20 kept and rejected at a time move the running share by up to a tenth: the neighbouring length may be taken.
@pytest.mark.parametrize("share_kept", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("draft_s", [0.05, 0.3, 0.9])
def test_blocks_get_about_the_length_that_gives_most_tokens_a_second(share_kept: float, draft_s: float) -> None:
    best = _best_length(share_kept=share_kept, draft_s=draft_s)

    assert abs(_settled_length(share_kept=share_kept, draft_s=draft_s) - best) <= max(1, best // 3)


def test_surer_and_cheaper_proposals_make_longer_blocks() -> None:
    lengths = [
        _settled_length(share_kept=0.2, draft_s=0.5),
        _settled_length(share_kept=0.8, draft_s=0.5),
        _settled_length(share_kept=0.95, draft_s=0.1),
    ]

    assert lengths == sorted(set(lengths))


def test_no_block_is_longer_than_what_can_be_used() -> None:
    pace = Pace(max_draft=MAX_DRAFT)

    lengths = [_block(pace, draft_s=0.001, read_s=5.0, token_s=0.001, room=3) for _ in range(20)]

    assert max(lengths) == 3


def test_blocks_of_different_lengths_are_tried_before_their_cost_is_known() -> None:
    pace = Pace(max_draft=MAX_DRAFT)

    lengths = [_block(pace, draft_s=0.1, read_s=1.0, token_s=0.1) for _ in range(3)]

    assert len(set(lengths)) > 1
    assert pace.reading.slope_s == pytest.approx(0.1, abs=1e-6)


def test_a_line_is_found_from_passes_of_different_sizes_and_kept_through_equal_ones() -> None:
    line = CostLine()
    for num_tokens in (2, 8, 4, 6):
        line.add(num_tokens, 1.0 + 0.25 * num_tokens)
    for _ in range(200):
        line.add(5, 2.25)

    assert line.slope_s == pytest.approx(0.25, abs=1e-6)
    assert line.estimate_s(10) == pytest.approx(3.5, abs=1e-6)
