"""Members whose checkpoints lie in a store: pods take them from the volume of models alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.checkpoints.reference import parse_stored
from ensemble.checkpoints.store import CheckpointStore
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.manifests.fitness import check_members, models_named
from ensemble.manifests.sizing import measure_demands
from ensemble.planning.demand import build_demands
from ensemble.spec_file import parse_spec
from tests.checkpoints.stores import put, save_checkpoint


def build_spec(checkpoint: str) -> Spec:
    document = {
        "version": 1,
        "members": [{"name": "a", "family": "x", "checkpoint": checkpoint, "resources": {"cpus": 1}}],
        "ensembles": [{"name": "default", "members": ["a"]}],
        "router": {"cpus": 1},
        "voting": {"cpus": 1},
    }
    return parse_spec(document, source="spec", folder=Path("/etc/ensemble"))


@pytest.mark.parametrize("url", ["s3://bucket/models", "/home/me/store", "/models"])
def test_a_store_elsewhere_is_refused_with_what_to_write(url: str) -> None:
    spec = build_spec(f"store:tiny@{url}")

    if url == "/models":
        check_members(spec, Path("/etc/ensemble"))
    else:
        with pytest.raises(ConfigError, match="write store:tiny@/models/NAME"):
            check_members(spec, Path("/etc/ensemble"))


def test_the_volumes_digests_must_have_what_says_which_checkpoint_a_name_is() -> None:
    digest = f"sha256:{'0' * 64}"

    named = [models_named(build_spec(f"store:{one}@/models/store")) for one in ("tiny", digest)]

    field = "members[0].checkpoint"
    assert named == [
        {field: "/models/store/names/tiny.json"},
        {field: f"/models/store/objects/sha256-{'0' * 64}"},
    ]


def test_a_copy_of_the_volume_is_measured_in_its_place(tmp_path: Path) -> None:
    put(CheckpointStore.at(str(tmp_path / "store")), save_checkpoint(tmp_path / "tiny"), "tiny")

    (demand, *_) = measure_demands(build_spec("store:tiny@/models/store"), tmp_path)

    assert demand.footprint == build_demands(build_spec(f"store:tiny@{tmp_path}/store"))[0].footprint
    assert demand.footprint is not None


def test_the_places_that_references_name_are_those_that_a_store_uses(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    digest = put(CheckpointStore.at(url), save_checkpoint(tmp_path / "tiny"), "tiny")

    assert Path(parse_stored(f"store:tiny@{url}").path).is_file()
    assert Path(parse_stored(f"store:{digest}@{url}").path, "config.json").is_file()
