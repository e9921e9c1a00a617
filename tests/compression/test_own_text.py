"""Text that a model writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.compression.calibration_options import CalibrationOptions
from ensemble.compression.calibration_text import CalibrationText
from ensemble.compression.own_text import BATCH_WINDOWS, PROMPT_TOKENS, write_own_text
from tests.checkpoints.tiny_models import build_llama
from tests.compression.step_contexts import build_windows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TOKENS = 32


def build_text(*, bos: tuple[int, ...] = ()) -> CalibrationText:
    windows_WT = build_windows(4, TOKENS)
    if bos:
        windows_WT[:, 0] = bos[0]
    return CalibrationText(calibrate_WT=windows_WT, held_out_WT=build_windows(2, TOKENS, seed=9), bos=bos, facts=())


def build_options(num_windows: int, *, seed: int = 0) -> CalibrationOptions:
    return CalibrationOptions(window_tokens=TOKENS, own_tokens=num_windows * TOKENS, seed=seed)


def write(folder: Path, num_windows: int, *, seed: int = 0, bos: tuple[int, ...] = ()) -> Tensor:
    folder.mkdir(exist_ok=True)
    return write_own_text(
        build_llama,
        build_text(bos=bos),
        build_options(num_windows, seed=seed),
        folder=folder,
        on_phase=lambda _name, _share: None,
    )


def test_the_same_seed_writes_the_same_and_another_one_something_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = write(tmp_path / "a", 3)
    torch.manual_seed(2)

    again, other = write(tmp_path / "b", 3), write(tmp_path / "c", 3, seed=1)

    assert first.shape == (3, TOKENS)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_writing_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    model = build_llama()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    write_own_text(lambda: model, build_text(), build_options(1), folder=tmp_path, on_phase=lambda _name, _share: None)

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_windows", [2, BATCH_WINDOWS + 2])
def test_it_tells_rising_shares_up_to_the_whole(tmp_path: Path, num_windows: int) -> None:
    shares: list[float] = []

    write_own_text(
        build_llama,
        build_text(),
        build_options(num_windows),
        folder=tmp_path,
        on_phase=lambda _name, share: shares.append(share),
    )

    assert shares == sorted(shares)
    assert 0.0 < shares[0] < shares[-1] == pytest.approx(1.0)


def test_a_run_that_goes_on_writes_only_the_batches_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_windows = BATCH_WINDOWS + 2
    whole = write(tmp_path / "whole", num_windows)
    files = sorted((tmp_path / "whole").iterdir())
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / files[0].name).write_bytes(files[0].read_bytes())
    llama: Any = type(build_llama())
    generate, num_written = llama.generate, []

    def count(model: Any, prompts: Tensor, **options: Any) -> Any:
        num_written.append(len(prompts))
        return generate(model, prompts, **options)

    monkeypatch.setattr(llama, "generate", count)
    resumed = write(tmp_path / "resumed", num_windows)

    assert len(files) == 2
    assert num_written == [2]
    assert torch.equal(resumed, whole)


def test_every_window_goes_on_from_text_that_calibrates(tmp_path: Path) -> None:
    windows_WT = write(tmp_path, 5, bos=(1,))

    text = build_text(bos=(1,)).calibrate_WT
    starts = range(1, TOKENS - PROMPT_TOKENS + 1)
    spans = {tuple(row[start : start + PROMPT_TOKENS].tolist()) for row in text for start in starts}
    assert windows_WT[:, 0].tolist() == [1] * 5
    assert all(tuple(window[1 : 1 + PROMPT_TOKENS].tolist()) in spans for window in windows_WT)


def test_a_window_never_ends_before_its_length(tmp_path: Path) -> None:
    model = build_llama()
    with torch.no_grad():
        # The end of a text is all that this model would say.
        model.lm_head.weight[2] = 1e3 * torch.sign(model.model.norm.weight)

    windows_WT = write_own_text(
        lambda: model, build_text(), build_options(2), folder=tmp_path, on_phase=lambda _name, _share: None
    )

    assert windows_WT.shape == (2, TOKENS)
    assert not (windows_WT[:, PROMPT_TOKENS:] == 2).any()


def test_what_the_model_wrote_is_mixed_in_and_never_judges() -> None:
    text, own_WT = build_text(), build_windows(3, TOKENS, seed=77)

    mixed = text.with_own(own_WT, seed=0)

    expected = sorted([*text.calibrate_WT.tolist(), *own_WT.tolist()])
    assert sorted(mixed.calibrate_WT.tolist()) == expected
    assert torch.equal(mixed.held_out_WT, text.held_out_WT)
    assert mixed.describe()["own_text_digest"] is not None
    assert text.describe()["own_text_digest"] is None
