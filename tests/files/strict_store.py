"""A store that refuses what some real ones refuse."""

from __future__ import annotations

from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class FakeStrictStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that moves nothing onto a file, as HDFS."""

    cachable = False
    store: ClassVar[dict[str, Any]] = {}

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2)
