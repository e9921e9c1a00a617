"""A cluster that learns from one feedback, tells what it learned, and ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from ensemble.router.feedback import Audit, Feedback, FeedbackPolicy
from ensemble.serving.cluster import ray_cluster
from ensemble.serving.feedback_store import ServeFeedbackStore

POLICY = FeedbackPolicy(audit_share=1.0, learning_rate=0.1, max_shift=10.0)


async def learn(store: ServeFeedbackStore, request_id: str) -> dict[str, object]:
    """Give a feedback, and tell whether it counts and what the weights are then."""
    choices = {"ann": "yes", "bob": "no"}
    await store.record_audit(
        Audit(request_id=request_id, ensemble="default", choices=("yes", "no"), choice_by_member=choices)
    )
    outcome = await store.give(Feedback(request_id=request_id, ensemble="default", answer="yes", is_choice=True))
    return {"accepted": outcome.accepted, "weights": dict(await store.weights("default"))}


def main(folder: str, request_id: str) -> None:
    """Print it as a line of JSON."""
    temp_dir = Path(tempfile.mkdtemp(prefix="ens-"))
    try:
        with ray_cluster("", temp_dir=temp_dir, num_cpus=1):
            # Generous: a cluster that has just begun takes its time for the first actor.
            store = ServeFeedbackStore("shop", Path(folder), {"default": POLICY}, timeout_s=150.0)
            learned = asyncio.run(learn(store, request_id))
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
    sys.stdout.write(json.dumps(learned) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
