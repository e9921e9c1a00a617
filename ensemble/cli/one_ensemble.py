"""A spec that serves one of another spec's ensembles, for one command and beside whatever is served already."""

from __future__ import annotations

from ensemble.config import Spec
from ensemble.router.config import EnsembleConfig


def spec_of_one(spec: Spec, ensemble: EnsembleConfig, *, host: str, port: int) -> Spec:
    """Reduce a spec to ``ensemble`` and the members that it needs, with one router, in the clear.

    What the spec says of routers is about many clients, updates and nodes; a second one would have no place where
    each node may have one.
    """
    needed = {*ensemble.members, *ensemble.assistants.model_dump(exclude_none=True).values()}
    own = {"host": host, "port": port, "replicas": 1, "max_per_node": 0, "notice_s": 0.0, "tls": None}
    return spec.model_copy(
        update={
            "members": tuple(member for member in spec.members if member.name in needed),
            "ensembles": (ensemble,),
            "router": spec.router.model_copy(update=own),
        }
    )
