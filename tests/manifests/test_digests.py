"""No checkpoint of the volume starts on bytes that the file of digests says nothing of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.manifests.digests import read_digests
from tests.manifests.rendered import ROOT
from tests.manifests.test_render import SPECS, render_command

GUIDE = (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8")
DIGEST = "0" * 64
NAMED = {"members[0].checkpoint": "/models/a/b", "members[1].checkpoint": "/models/c.gguf"}


def write(folder: Path, *paths: str) -> Path:
    file = folder / "models.sha256"
    file.write_text("".join(f"{DIGEST}  {path}\n" for path in paths), encoding="utf-8")
    return file


@pytest.mark.parametrize("paths", [("a/b/config.json", "c.gguf"), ("./a/b/x/model.safetensors", "./c.gguf", "other")])
def test_digests_of_all_that_is_named_are_taken_as_they_are(tmp_path: Path, paths: tuple[str, ...]) -> None:
    file = write(tmp_path, *paths)

    assert read_digests(file, NAMED) == file.read_bytes()


@pytest.mark.parametrize(
    ("paths", "missing"),
    [
        (("a/b/config.json",), "/models/c.gguf, which members[1].checkpoint names"),
        (("a/config.json", "c.gguf"), "/models/a/b, which members[0].checkpoint names"),
        (("a/bc/config.json", "c.gguf"), "/models/a/b, which members[0].checkpoint names"),
        (("a/b/config.json", "a/../c.gguf"), "line 2"),
        (("../a/b/config.json", "c.gguf"), "line 1"),
    ],
)
def test_a_checkpoint_that_nobody_compares_is_refused(tmp_path: Path, paths: tuple[str, ...], missing: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(missing)):
        read_digests(write(tmp_path, *paths), NAMED)


def test_a_spec_is_not_rendered_with_another_volumes_digests(tmp_path: Path) -> None:
    models, out = write(tmp_path, "other/model.safetensors"), tmp_path / "overlay"

    code, output = render_command(str(SPECS / "one-gpu.yaml"), "--out", str(out), "--models", str(models))

    assert code == 2
    assert "members[0].checkpoint" in " ".join(output.split())
    assert not out.exists()


def test_the_guides_command_writes_down_files_at_every_depth(tmp_path: Path) -> None:
    (command,) = re.findall(r"\(cd VOLUME && (.+models\.sha256)\)", GUIDE)
    for name in ("c.gguf", "a/b/config.json", "a/b/of parts/model 1.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")

    for _ in range(2):
        subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=60, check=True)  # noqa: S603, S607

    content = read_digests(tmp_path / "models.sha256", NAMED)
    assert sorted(content.decode().splitlines()) == sorted(
        subprocess.run(
            ["sha256sum", "a/b/config.json", "a/b/of parts/model 1.safetensors", "c.gguf"],  # noqa: S607
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.splitlines()
    )
