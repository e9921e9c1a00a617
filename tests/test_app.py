"""What a Serve config's `import_path` names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ensemble import app
from ensemble.checkpoints.store import CheckpointStore
from ensemble.errors import ConfigError
from ensemble.replica_servers import member_deployment
from ensemble.spec_file import parse_spec
from tests.checkpoints.stores import put, save_checkpoint

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "inline",
    "members": [{"name": "a", "family": "x", "engine": {"type": "echo"}}],
    "ensembles": [{"name": "default", "members": ["a"], "calibration": "calibration.json"}],
}


@pytest.mark.parametrize("is_given", [True, False])
def test_paths_in_a_spec_of_the_serve_config_begin_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_given: bool
) -> None:
    monkeypatch.setattr(app, "application_secret", lambda _name: "secret")
    folder = tmp_path if is_given else Path("/etc/ensemble")

    with pytest.raises(ConfigError, match=f"{folder}/calibration.json"):
        app.application({"spec": SPEC, **({"folder": str(tmp_path)} if is_given else {})})


def test_all_replicas_run_what_a_stored_name_meant_and_another_meaning_is_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_STORE", str(tmp_path / "store"))
    store = CheckpointStore.at(str(tmp_path / "store"))
    member = {"name": "a", "family": "x", "checkpoint": "store:tiny"}
    spec = {"version": 1, "members": [member], "ensembles": [{"name": "default", "members": ["a"]}]}
    started = []
    for num_layers in (1, 2):
        put(store, save_checkpoint(tmp_path / str(num_layers), num_layers=num_layers), "tiny", replace=True)
        parsed = parse_spec(spec, source="spec", folder=tmp_path)
        monkeypatch.setattr(app, "bind_application", lambda _router, called, _serving: called)

        called: Any = app.build_application(parsed, "secret")

        started.append(called[member_deployment("a")])
    first, second = ((plan.start.args[0].checkpoint, plan.version) for plan in started)
    assert re.fullmatch(rf"store:sha256:[0-9a-f]{{64}}@{tmp_path}/store", first[0])
    assert first[0] != second[0]
    assert first[1] != second[1]
