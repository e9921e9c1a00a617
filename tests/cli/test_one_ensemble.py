"""A command's own ensemble has one router, whatever the spec says of many clients, updates and nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.cli.batch_run import own_spec
from ensemble.cli.evaluation_run import private_spec
from ensemble.config import Spec
from ensemble.engines.footprint import GIB
from ensemble.planning.machine import Node
from ensemble.planning.plan import plan_spec
from ensemble.spec_file import load_spec
from tests.batch.batches import build_manifest, build_store
from tests.cli.specs import write_spec

SPEC = """
version: 1
router: {host: 0.0.0.0, port: 9000, replicas: 2, max_per_node: 1, notice_s: 10, cpus: 0.1}
members:
  - {name: a, family: x, engine: {type: echo}}
  - {name: b, family: y, engine: {type: echo}}
  - {name: grader, family: z, engine: {type: echo}}
  - {name: other, family: z, engine: {type: echo}}
ensembles:
  - name: default
    members: [a, b]
    generate_strategy: judge
    assistants: {judge: grader}
    feedback: {state_dir: state}
  - {name: second, members: [other]}
"""
NODE = Node(name="only", cpus=8.0, memory_bytes=16 * GIB, gpus=())


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Give a spec for two nodes and more."""
    return load_spec(write_spec(tmp_path, SPEC))


def test_a_batch_has_a_place_for_its_router_on_one_node(tmp_path: Path, spec: Spec) -> None:
    served = own_spec(spec, spec.ensembles[0], build_store(tmp_path, build_manifest(1)))

    routers = [one for one in plan_spec(served, [NODE]).replicas if one.demand.where == "router"]
    assert len(routers) == 1
    assert (served.router.max_per_node, served.router.notice_s) == (0, 0.0)


def test_a_batch_has_a_name_of_its_own_and_what_its_ensemble_needs(tmp_path: Path, spec: Spec) -> None:
    store, other = build_store(tmp_path, build_manifest(1)), build_store(tmp_path, build_manifest(2), name="b.jsonl")

    served = own_spec(spec, spec.ensembles[0], store)

    assert served.name == own_spec(spec, spec.ensembles[0], store).name
    assert served.name not in {spec.name, own_spec(spec, spec.ensembles[0], other).name}
    assert [member.name for member in served.members] == ["a", "b", "grader"]
    assert [(one.name, one.feedback) for one in served.ensembles] == [("default", None)]
    assert (served.router.host, served.router.port) == ("", 0)


def test_an_evaluation_has_a_place_for_its_router_too(spec: Spec) -> None:
    served = private_spec(spec, spec.ensembles[0])

    assert (served.router.replicas, served.router.max_per_node, served.router.notice_s) == (1, 0, 0.0)
    assert [member.name for member in served.members] == ["a", "b"]
