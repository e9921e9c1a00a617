"""Every error of the project, grouped by whose fault it is: the caller's, the operator's or the world's.

Arguments are facts and all of them reach ``super().__init__``, because Ray pickles exceptions by their arguments.
``__str__`` makes the sentence: what happened, to what, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class EnsembleError(Exception):
    """Root of the tree; never raised itself."""

    fact_names: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments, in order: an error can be made again from its facts."""

    @property
    def facts(self) -> dict[str, str]:
        """What a program needs to react: the arguments by name, as text."""
        return dict(zip(self.fact_names, map(str, self.args), strict=True))


class InvalidRequestError(EnsembleError):
    """The caller sent something that cannot be served as it is."""

    fact_names = ("field", "problem", "remedy")

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}; {self.remedy}"


class UnknownNameError(InvalidRequestError):
    """The caller named something that does not exist here."""


class MessageTooLargeError(InvalidRequestError):
    """The caller's message is larger than the server accepts."""


class AuthenticationError(InvalidRequestError):
    """The caller did not prove that it may call."""


class ConfigError(EnsembleError):
    """The operator's spec or machine cannot do what the spec asks."""

    fact_names = ("field", "problem", "remedy")

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(where, problem, remedy)
        self.where = where
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"


class CheckpointError(ConfigError):
    """A checkpoint is missing, cut short, or of a kind that cannot be loaded."""


class MemberError(EnsembleError):
    """One member could not give a ballot."""

    fact_names = ("member", "problem")

    def __init__(self, member: str, problem: str) -> None:
        super().__init__(member, problem)
        self.member = member
        self.problem = problem

    def __str__(self) -> str:
        return f"member {self.member}: {self.problem}"


class MemberTimeoutError(MemberError):
    """The member did not answer before its deadline."""


class MemberUnavailableError(MemberError):
    """The member's replica could not be reached, or went away; another replica may answer."""


class MemberBusyError(MemberUnavailableError):
    """The member's replica has no room for another request now."""


class MemberRefusedError(MemberError):
    """The member cannot serve this request at all (its prompt is longer than the context, say)."""


class QuorumError(EnsembleError):
    """Too few members answered for an honest decision."""

    fact_names = ("ensemble", "num_cast", "num_asked", "reasons")

    def __init__(self, ensemble: str, num_cast: int, num_asked: int, reasons: str) -> None:
        super().__init__(ensemble, num_cast, num_asked, reasons)
        self.ensemble = ensemble
        self.num_cast = num_cast
        self.num_asked = num_asked
        self.reasons = reasons

    def __str__(self) -> str:
        return (
            f"ensemble {self.ensemble}: {self.num_cast} of {self.num_asked} members gave a ballot "
            f"({self.reasons}); retry, or lower the quorum"
        )


class OverloadedError(EnsembleError):
    """The router has as many requests under way as it accepts."""

    fact_names = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} requests are under way already, which is the limit; retry after a moment"


class VotingUnavailableError(EnsembleError):
    """The voting service could not be reached for a heavy strategy."""

    fact_names = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the voting service did not decide: {self.problem}; retry, or ask for another strategy"


class FeedbackUnavailableError(EnsembleError):
    """What keeps an application's feedback could not be reached, or could not write it down."""

    fact_names = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the feedback was not kept: {self.problem}; send it again after a moment"


class StartError(EnsembleError):
    """A replica could not start; ``problem`` is the failure in one line, ``phase`` what it was at."""

    fact_names = ("problem", "phase")

    def __init__(self, problem: str, phase: str) -> None:
        super().__init__(problem, phase)
        self.problem = problem
        self.phase = phase

    def __str__(self) -> str:
        return f"{self.problem} (in the phase {self.phase!r})"


class DefectError(EnsembleError):
    """The server met something that its authors did not foresee."""

    fact_names = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the server failed on this request ({self.problem}); its log says why"


class EndpointError(EnsembleError):
    """A server could not be reached, or failed in a way that it did not explain."""

    fact_names = ("address", "status", "problem")

    def __init__(self, address: str, status: str, problem: str) -> None:
        super().__init__(address, status, problem)
        self.address = address
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.address}: {self.status}: {self.problem}; check the address and the server's log"
