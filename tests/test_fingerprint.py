"""A fingerprint names what answers depend on, wherever that lies."""

from __future__ import annotations

import pytest

from ensemble.config import MemberConfig
from ensemble.fingerprint import fingerprint


def of(checkpoint: str) -> str:
    return fingerprint(MemberConfig(name="a", family="x", checkpoint=checkpoint))


@pytest.mark.parametrize("stored", ["store:a", f"store:sha256:{'0' * 64}"])
def test_a_stored_checkpoint_is_the_same_in_every_store(stored: str) -> None:
    assert of(f"{stored}@/models/store") == of(f"{stored}@s3://bucket/models")
    assert of(f"{stored}@/models/store") != of("store:b@/models/store")
