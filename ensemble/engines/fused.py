"""The engine on several checkpoints that are fused token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ensemble.engines.embedded import EmbeddedEngine
from ensemble.engines.fused_loading import load_fused

if TYPE_CHECKING:
    from collections.abc import Callable

    from ensemble.engines.batch_loop import LoadedModel


class FusedEngine(EmbeddedEngine):
    """Decodes a group of checkpoints as one model, in the embedded engine's way. See Engine for the contract."""

    _load: ClassVar[Callable[..., LoadedModel]] = staticmethod(load_fused)
