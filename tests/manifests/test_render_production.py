"""A spec of one's own in production: its overlay has what production needs, and runs the image that was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.manifests.rendered import K8S, ROOT, groups, needs_kubectl, render, render_folder, spec_text
from tests.manifests.test_policies import EVERYWHERE, IN_PRODUCTION, Policy
from tests.manifests.test_render import render_command, write_spec

SPECS = ROOT / "deploy/specs"
IMAGE = f"registry.example/ensemble@sha256:{'ab' * 32}"
IN_PLACE = ("--image", IMAGE, "--production")


@needs_kubectl
def test_a_rendered_spec_in_production_is_that_spec_on_that_image(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, "max_batch: 4", "max_batch: 8")
    out = tmp_path / "overlay"

    code, output = render_command(str(spec), "--out", str(out), *IN_PLACE)

    assert code == 0, output
    resources = render_folder(out)
    assert spec_text(resources) == spec.read_text(encoding="utf-8")
    named = {group["template"]["spec"]["containers"][0]["image"] for group in groups(resources).values()}
    assert named == {IMAGE}


@needs_kubectl
def test_it_adds_the_same_resources_as_the_overlay_that_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "overlay"

    code, output = render_command(str(SPECS / "three-nodes.yaml"), "--out", str(out), *IN_PLACE)

    assert code == 0, output
    rendered, kept = (
        {(one["kind"], one["metadata"]["name"].rsplit("-", 1)[0]) for one in resources}
        for resources in (render_folder(out), render("overlays/prod"))
    )
    assert rendered == kept


@needs_kubectl
@pytest.mark.parametrize("policy", [*EVERYWHERE, *IN_PRODUCTION], ids=lambda policy: policy.__name__)
def test_a_spec_on_gpus_keeps_every_policy_in_production(tmp_path: Path, policy: Policy) -> None:
    models = K8S / "overlays/gpu/models.sha256"
    out = tmp_path / "overlay"

    code, output = render_command(str(SPECS / "one-gpu.yaml"), "--out", str(out), "--models", str(models), *IN_PLACE)

    assert code == 0, output
    assert list(policy(render_folder(out))) == []


@pytest.mark.parametrize("image", [(), ("--image", "registry.example/ensemble:0.1.0-cpu")])
def test_production_wants_an_image_by_digest(tmp_path: Path, image: tuple[str, ...]) -> None:
    out = tmp_path / "overlay"

    code, output = render_command(str(SPECS / "three-nodes.yaml"), "--out", str(out), "--production", *image)

    assert code == 2
    assert "digest" in output
    assert not out.exists()
