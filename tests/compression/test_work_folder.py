"""What compressions leave behind, and for how long."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ensemble.compression.work_folder import KEPT_DAYS, WorkFolder, open_shared_folder, open_work_folder
from tests.checkpoints.tiny_models import build_llama, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 24 * 3600.0


def keep_state(work: WorkFolder) -> None:
    work.keep(build_llama(num_layers=1), build_tokenizer(), findings=[{}], seconds=[0.0])


def age(cache: Path, days: float) -> None:
    for path in [*(cache / "compressing").rglob("*")]:
        os.utime(path, (time.time() - days * DAY_S,) * 2)


def test_what_a_killed_run_left_goes_after_some_days_with_its_lock(tmp_path: Path) -> None:
    with open_work_folder(tmp_path, {"recipe": 1}, output=tmp_path / "one") as work:
        keep_state(work)
    with open_shared_folder(tmp_path, "text", {"text": 1}) as folder:
        (folder / "windows-0.json").write_text("[]")
    age(tmp_path, KEPT_DAYS + 0.1)

    with open_work_folder(tmp_path, {"recipe": 2}, output=tmp_path / "two"):
        left = [path for path in (tmp_path / "compressing").iterdir() if path.stat().st_mtime < time.time() - DAY_S]

    assert not work.folder.exists()
    assert not folder.exists()
    assert left == []


def test_what_is_younger_or_in_use_stays(tmp_path: Path) -> None:
    with open_work_folder(tmp_path, {"recipe": 1}, output=tmp_path / "one") as used:
        keep_state(used)
        age(tmp_path, KEPT_DAYS + 0.1)
        with open_work_folder(tmp_path, {"recipe": 2}, output=tmp_path / "two") as young:
            keep_state(young)

        assert used.find_last() is not None
    age(tmp_path, KEPT_DAYS - 0.1)
    with open_work_folder(tmp_path, {"recipe": 3}, output=tmp_path / "three"):
        pass

    assert young.find_last() is not None


def test_what_a_long_step_was_still_writing_a_short_time_ago_stays(tmp_path: Path) -> None:
    with (
        suppress(KeyboardInterrupt),
        open_work_folder(tmp_path, {"recipe": 1}, output=tmp_path / "one") as work,
        work.progress(0) as progress,
    ):
        (progress / "half").touch()
        raise KeyboardInterrupt
    age(tmp_path, KEPT_DAYS + 0.1)
    os.utime(progress / "half")

    with open_work_folder(tmp_path, {"recipe": 2}, output=tmp_path / "two"):
        pass

    assert (progress / "half").exists()


def test_a_run_that_ended_before_anything_was_whole_leaves_no_folder(tmp_path: Path) -> None:
    with open_work_folder(tmp_path, {}, output=tmp_path / "one") as work, work.scratch() as scratch:
        (scratch / "something").write_text("")

    assert not work.folder.exists()


def test_what_a_step_keeps_of_its_progress_stays_until_its_model_is_kept(tmp_path: Path) -> None:
    with open_work_folder(tmp_path, {}, output=tmp_path / "out") as work:
        with suppress(KeyboardInterrupt), work.progress(0) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt
        with work.progress(0) as again:
            left = [path.name for path in again.iterdir()]
        left_after_the_step = [path.name for path in folder.iterdir()]
        keep_state(work)

    assert left == left_after_the_step == ["half"]
    assert not folder.exists()
