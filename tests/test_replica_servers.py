"""A router replica says that it is ready when an ensemble is complete, and never because asking failed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ensemble.config import Spec
from ensemble.replica_servers import VOTING, announce, member_deployment
from ensemble.router.ports import ReplicaPicker
from ensemble.serving.replica import Place


@dataclass(slots=True)
class FakeHealth:
    """Remembers whether it was told to say SERVING."""

    is_ready: bool = False

    async def set_ready(self) -> None:
        """Note it."""
        self.is_ready = True


@dataclass(slots=True)
class FakePicker:
    """Has a replica, or cannot be asked."""

    error: Exception | None = None
    picked: list[str] = field(default_factory=list)

    async def pick(self, *_: object, **__: object) -> str:
        """Give an address."""
        if self.error:
            raise self.error
        return "127.0.0.1:1"


def place_of(**pickers: ReplicaPicker) -> Place:
    named = {VOTING: FakePicker(), **{member_deployment(name): one for name, one in pickers.items()}}
    return Place(replica_id="r", node_ip="127.0.0.1", picker_by_name=named)  # type: ignore[arg-type]


def build_spec() -> Spec:
    echo = {"type": "echo"}
    members = [{"name": name, "family": name, "engine": echo} for name in "ab"]
    ensembles = [{"name": "one", "members": ["a"]}, {"name": "two", "members": ["b"]}]
    return Spec.model_validate({"version": 1, "members": members, "ensembles": ensembles})


async def test_one_complete_ensemble_is_enough_even_when_asking_for_another_fails() -> None:
    health = FakeHealth()

    await announce(health, build_spec(), place_of(a=FakePicker(RuntimeError("gone")), b=FakePicker()))  # type: ignore[arg-type]

    assert health.is_ready


async def test_failures_do_not_make_it_ready() -> None:
    health = FakeHealth()
    broken = place_of(a=FakePicker(RuntimeError("gone")), b=FakePicker(RuntimeError("gone")))  # type: ignore[arg-type]

    with pytest.raises(ExceptionGroup, match="no ensemble came up"):
        await announce(health, build_spec(), broken)  # type: ignore[arg-type]

    assert not health.is_ready
