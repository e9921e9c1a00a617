"""What a member's answers depend on, as a short name."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from ensemble.checkpoints.reference import STORE_PREFIX
from ensemble.config import MemberConfig
from ensemble.engines.config import EngineConfig

_TUNING = {
    *("type", "device", "threads", "max_batch", "max_waiting", "max_step_tokens", "delay_s", "token_delay_s"),
    *("kv_cache_gib", "prefix_caching", "tensor_parallel_size", "pipeline_parallel_size", "max_draft"),
}
"""Engines' options that leave the answers as they are."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")


def fingerprint(member: MemberConfig) -> str:
    """Name what a member's answers depend on, as far as a spec says it: 16 hexadecimal digits of a SHA-256.

    That is the engine's type, its options and the prompt's where they are not the defaults, and the checkpoint: a hub's
    id or a package's file whole, a name or digest without its store, the last two parts of a path; stores and paths may
    lie elsewhere on another machine. Left out is what changes only where, how fast and how often it answers.
    """
    facts = {
        "checkpoint": _checkpoint_name(member.checkpoint),
        "engine": member.engine.type,
        "options": _options(member.engine),
        "prompt": member.prompt.model_dump(mode="json", exclude_defaults=True),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _options(engine: EngineConfig) -> dict[str, Any]:
    options = engine.model_dump(mode="json", exclude_defaults=True, exclude=_TUNING)
    if "others" in options:
        options["others"] = [_checkpoint_name(other) for other in options["others"]]
    return options


def _checkpoint_name(reference: str) -> str:
    if reference.startswith(STORE_PREFIX):
        return reference.partition("@")[0]
    # A folder of two parts is spelt like a hub's id, and both are kept whole.
    if reference.startswith("package:") or _HUB_ID.fullmatch(reference):
        return reference
    parts = [part for part in re.split(r"[/\\:]", reference) if part not in {"", "."}]
    return "/".join(parts[-2:])
