"""One Ray cluster for all tests that need one: starting it costs more than most of them."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from tests.engines.vllm_runs import SharedVllm
    from tests.serving.systems import RunningSystem

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and the commands that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no limits of time: neither chance nor a machine that is busy fails a test.
hypothesis.settings.load_profile("ci")

NUM_CPUS = 8
"""What Ray may believe to have: members reserve cores so that refusals can be tested, not to have them."""


@pytest.fixture(scope="session")
def cluster_cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that the cluster's processes have for a cache; this process has its own."""
    return tmp_path_factory.mktemp("cluster-cache")


@pytest.fixture(scope="session")
def cluster(cluster_cache_dir: Path) -> Iterator[None]:
    """Run a Ray cluster of this session's own, in its own folder, and leave nothing of it behind."""
    from ensemble.serving.cluster import ray_cluster  # noqa: PLC0415 - seconds to import, and few tests need it

    # Not pytest's folder: Ray's sockets lie in it, and their paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ens-"))
    try:
        with ExitStack() as stack:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("ENSEMBLE_CACHE_DIR", str(cluster_cache_dir))
                stack.enter_context(ray_cluster("", temp_dir=folder, num_cpus=NUM_CPUS))
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def system(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> RunningSystem:  # noqa: ARG001 - it must run
    """Run the application that most of these tests share; it is never harmed."""
    from tests.engines.tiny_checkpoints import save_random_llama  # noqa: PLC0415 - as above
    from tests.serving.systems import build_shared_spec, run  # noqa: PLC0415 - as above

    return run(build_shared_spec(save_random_llama(tmp_path_factory.mktemp("tiny-llama"))))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny_vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedVllm]:
    """Run vLLM's processes for a tiny random model; the tests that share them run in the session's event loop."""
    from tests.engines.tiny_checkpoints import save_random_llama  # noqa: PLC0415 - as above
    from tests.engines.vllm_runs import HEAD_DIM, SharedVllm, running_vllm  # noqa: PLC0415 - as above

    checkpoint = save_random_llama(tmp_path_factory.mktemp("tiny-vllm"), head_dim=HEAD_DIM)
    async with running_vllm(checkpoint) as engine:
        shared = SharedVllm(engine, checkpoint)
        yield shared
        shared.forget()
