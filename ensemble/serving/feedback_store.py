"""The feedback of one application, kept by one actor for all its router replicas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util import list_named_actors

from ensemble import __version__
from ensemble.errors import FeedbackUnavailableError, InvalidRequestError
from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.serving.feedback_file import DurableFeedback, own_file
from ensemble.serving.namespace import NAMESPACE

T = TypeVar("T")

_log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
"""A restarted actor is back in a few seconds: a call waits for it."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class FeedbackKeeper:
    """Owns the file of an application's feedback; a call that dies with it is repeated, which changes nothing twice."""

    def __init__(self, path: str) -> None:
        # Held until this process ends: one that is being replaced may still be writing.
        self._lock = own_file(Path(path))
        self._feedback = DurableFeedback(Path(path))

    async def record_audit(self, audit: Audit) -> None:
        """Keep an audit."""
        await self._feedback.record_audit(audit)

    async def give(self, feedback: Feedback, policy: FeedbackPolicy) -> FeedbackOutcome:
        """Learn from a feedback."""
        return await self._feedback.give(feedback, policy)

    async def weights(self, ensemble: str, max_shift: float) -> dict[str, float]:
        """Give the factor of each member's weight."""
        return await self._feedback.weights(ensemble, max_shift)


class ServeFeedbackStore:
    """A FeedbackStore over the application's actor, which the first to need it starts; nothing waits for it here.

    The state lies in ``folder``, which on more than one node must be one that all of them share: the actor comes back
    on any of them. Another folder, or another version of this program, is another actor, so that a redeployment may
    change it; a router replica needs nothing but the name, the folder and the policies.

    The store that was made last wins: it ends the application's other keepers. Another one whose keeper is ended so
    is of an older deployment, and does not start it again while there is a newer one; its calls fail until it is
    replaced, too. ``end_keepers`` after a deployment settles whatever was restarted in between.
    """

    def __init__(
        self,
        application: str,
        folder: Path,
        policy_by_ensemble: Mapping[str, FeedbackPolicy],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._policy_by_ensemble = policy_by_ensemble
        self._timeout_s = timeout_s
        self._path = folder.absolute() / f"{application}.feedback.json"
        self._application = application
        self._name = keeper_name(application, self._path)
        self._keeper = self._find_keeper()
        end_keepers(application, keep=self._name)

    async def record_audit(self, audit: Audit) -> None:
        """Keep an audit."""
        await self._answer(self._keeper.record_audit.remote(audit))

    async def give(self, feedback: Feedback) -> FeedbackOutcome:
        """Learn from a feedback."""
        policy = self._policy_by_ensemble[feedback.ensemble]
        return await self._answer(self._keeper.give.remote(feedback, policy))

    async def weights(self, ensemble: str) -> Mapping[str, float]:
        """Give the factor of each member's weight."""
        max_shift = self._policy_by_ensemble[ensemble].max_shift
        return await self._answer(self._keeper.weights.remote(ensemble, max_shift))

    def _find_keeper(self) -> Any:
        return FeedbackKeeper.options(  # type: ignore[attr-defined]
            name=self._name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
        ).remote(str(self._path))

    async def _answer(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError as error:
            problem = f"its keeper did not answer within {self._timeout_s:g} s"
            raise FeedbackUnavailableError(problem) from error
        except RayTaskError as error:
            if isinstance(error.cause, InvalidRequestError):
                raise error.cause from None
            raise FeedbackUnavailableError(f"its keeper failed on {self._path} ({error.cause})") from error
        except ActorDiedError as error:
            # For good: killed by hand or a newer deployment, or its folder could not be used. The next call may find
            # that mended.
            others = [name for name in list_keepers(self._application) if name != self._name]
            if others:
                problem = f"its keeper for {self._path} was ended, since another deployment has {', '.join(others)}"
                raise FeedbackUnavailableError(problem) from error
            self._keeper = self._find_keeper()
            raise FeedbackUnavailableError(f"its keeper for {self._path} died ({error})") from error
        except RayError as error:
            raise FeedbackUnavailableError(f"its keeper for {self._path} is away ({error})") from error


def keeper_name(application: str, path: Path, *, version: str = __version__) -> str:
    """Name the actor that keeps an application's feedback in a file, of one version of this program."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"{application}-feedback-{version.replace('-', '_')}-{digest}"


def list_keepers(application: str) -> tuple[str, ...]:
    """List the keepers of an application's feedback, of every folder and version."""
    name = re.compile(rf"{re.escape(application)}-feedback-(?:[^-]+-)?[0-9a-f]{{8}}")
    actors: Any = list_named_actors(all_namespaces=True)
    return tuple(actor["name"] for actor in actors if actor["namespace"] == NAMESPACE and name.fullmatch(actor["name"]))


def end_keepers(application: str, *, keep: str = "") -> tuple[str, ...]:
    """End an application's keepers but the one named ``keep``, and give the names of those that were ended.

    No acknowledged feedback is lost: it is in the file, and the next keeper of the file waits until this one's process
    has ended. Audits of the last two seconds may be.
    """
    ended = tuple(name for name in list_keepers(application) if name != keep)
    for name in ended:
        with suppress(ValueError):  # it ended meanwhile
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
            _log.info("the feedback's keeper %s is ended", name)
    return ended
