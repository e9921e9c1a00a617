"""``ensemble digest``, and what a spec may pin."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from ensemble.checkpoints.digest import compute_digest
from ensemble.cli.entry import app
from ensemble.config import MemberConfig
from tests.checkpoints.tiny_models import build_llama, save


def test_the_digest_that_is_printed_is_the_one_that_is_checked(tmp_path: Path) -> None:
    checkpoint = save(build_llama(), tmp_path)

    result = CliRunner().invoke(app, ["digest", checkpoint])

    assert result.stdout == f"{compute_digest(checkpoint)}\n"
    assert MemberConfig(name="a", family="x", checkpoint=checkpoint, checkpoint_digest=result.stdout.strip())


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["digest", str(tmp_path / "absent.gguf")])

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("digest", ["1234", "sha256:12", f"md5:{'0' * 64}", f"sha256:{'G' * 64}"])
def test_what_is_no_digest_is_refused_with_the_spec(digest: str) -> None:
    with pytest.raises(ValidationError, match="checkpoint_digest"):
        MemberConfig(name="a", family="x", checkpoint="org/name", checkpoint_digest=digest)


def test_an_echo_member_has_nothing_to_pin() -> None:
    with pytest.raises(ValidationError, match="checkpoint_digest pins a checkpoint, and there is none"):
        MemberConfig.model_validate(
            {"name": "a", "family": "x", "engine": {"type": "echo"}, "checkpoint_digest": f"sha256:{'0' * 64}"}
        )
