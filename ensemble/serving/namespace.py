"""Where the named actors of all applications live on a Ray cluster."""

from __future__ import annotations

NAMESPACE = "ensemble"
