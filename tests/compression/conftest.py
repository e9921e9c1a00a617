"""What compressions of tiny checkpoints keep on the way goes with the test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each test a home of its own; real checkpoints were converted into the user's."""
    if request.node.get_closest_marker("slow") is None:
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
