"""What a Serve config's `import_path` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensemble import app
from ensemble.errors import ConfigError

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
