#!/usr/bin/env python
"""Shows the whole system on this machine: compress, serve, vote live, and measure what the early stop saves."""

from __future__ import annotations

import sys
import time


def main() -> int:
    """Run the demo; gives the exit code."""
    # First of all, so that the time to the first answer includes every import.
    started_s = time.monotonic()
    from walkthrough import run  # noqa: PLC0415

    return run(started_s)


if __name__ == "__main__":
    sys.exit(main())
