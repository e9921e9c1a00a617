"""What a forward pass that raises does to its requests, and when it ends the engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ensemble.errors import MemberError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAULTS_IN_A_ROW = 3

_log = logging.getLogger(__name__)


class PassFaults:
    """A failed pass fails its own requests; the engine ends only when the model can be proven to be broken.

    After each failure ``check`` reads something short that the model could read at its start: CUDA faults stay, and
    memory that is not there stays away, but a text that the model trips over harms nobody else. When the check has
    failed MAX_FAULTS_IN_A_ROW times, with no pass between that went well, the engine ends.
    """

    def __init__(self, member: str, check: Callable[[], object]) -> None:
        self._member = member
        self._check = check
        self._num_in_a_row = 0

    def note_success(self) -> None:
        """Forget earlier failures: a pass went well."""
        self._num_in_a_row = 0

    def note_failure(self, error: Exception) -> MemberError:
        """Give what the requests of a failed pass are told."""
        _log.error("a forward pass of member %s failed", self._member, exc_info=error)
        return MemberError(self._member, f"the forward pass failed: {type(error).__name__}: {error}")

    def check_model(self) -> None:
        """Try the model after a failure; raises what the check raises when it is the last of too many."""
        try:
            self._check()
        except Exception:
            self._num_in_a_row += 1
            if self._num_in_a_row >= MAX_FAULTS_IN_A_ROW:
                raise
        else:
            self._num_in_a_row = 0
