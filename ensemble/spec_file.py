"""Reads a spec from a YAML file; every mistake names its place and the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ensemble.calibration.calibration_file import Calibration, check_fits, load_calibration
from ensemble.checkpoints.reference import PACKAGE_PREFIX, STORE_PREFIX, parse_stored
from ensemble.config import MemberConfig, RouterConfig, Spec
from ensemble.engines.config import FusedEngineConfig, VllmEngineConfig
from ensemble.environment import cache_dir, store_url
from ensemble.errors import CheckpointError, ConfigError
from ensemble.fingerprint import fingerprint
from ensemble.router.config import CALIBRATED_STRATEGIES, EnsembleConfig

CACHE_PREFIX = "cache:"
"""A checkpoint in the folder that ``ENSEMBLE_CACHE_DIR`` names, wherever that is on this machine."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without the trap that the last of two equal keys wins silently."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Refuse a key that stands twice; here a mapping has its own keys alone, not yet those merged into it."""
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key[1]!r} stands twice", problem_mark=node.start_mark)
        return node


def load_spec(path: Path) -> Spec:
    """Read and check a spec.

    A checkpoint is taken from the file's folder when it begins with ``./`` or ``../``, ends in ``.gguf``, or exists
    there; ``~`` is the home folder, ``cache:`` the cache, ``store:`` is told which store, and everything else stays as
    it is. An adapter is a folder of this machine, so it is taken from the file's folder, the home folder or the cache.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or is no spec.
    """
    return parse_spec(_read_mapping(path), source=str(path), folder=path.parent)


def find_weight_files(path: Path) -> tuple[Path, ...]:
    """Find the calibrations that the fused groups of a spec that holds take their weights from."""
    engines = (member.engine for member in Spec.model_validate(_read_mapping(path)).members)
    named = [one.weights_from.calibration for one in engines if isinstance(one, FusedEngineConfig) and one.weights_from]
    return tuple(Path(_path(name, path.parent, where="engine.weights_from")) for name in named)


def parse_spec(data: Mapping[str, Any], *, source: str, folder: Path) -> Spec:
    """Check a spec that was read already.

    Raises:
        ConfigError: it is no spec; all mistakes are in the problem.
    """
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems = [f"{_place(problem['loc'])}: {_problem(problem)}" for problem in _own_problems(error)]
        raise ConfigError(source, "; ".join(problems), "see `ensemble schema` for what a spec may say") from error
    members = tuple(_with_checkpoints(member, folder, f"members[{index}]") for index, member in enumerate(spec.members))
    ensembles = tuple(_with_paths(ensemble, folder, index) for index, ensemble in enumerate(spec.ensembles))
    router = _with_tls(spec.router, folder)
    return spec.model_copy(update={"members": members, "ensembles": ensembles, "router": router})


def load_calibrations(spec: Spec) -> dict[str, Calibration]:
    """Read the calibration of each ensemble that has one, by the ensemble's name.

    Raises:
        ConfigError: one cannot be read, was made for other members or another ensemble, or lacks what the ensemble
            wants of it.
    """
    member_by_name = {member.name: member for member in spec.members}
    calibrations = {}
    for ensemble in spec.ensembles:
        if ensemble.calibration:
            calibration = load_calibration(Path(ensemble.calibration))
            check_fits(
                calibration,
                ensemble=ensemble.name,
                fingerprint_by_member={name: fingerprint(member_by_name[name]) for name in ensemble.members},
                family_by_member={name: member_by_name[name].family for name in ensemble.members},
                facts={} if calibration.has_choices else text_facts(ensemble),
            )
            _check_has_what_is_wanted(calibration, ensemble)
            calibrations[ensemble.name] = calibration
    return calibrations


def generation_facts(ensemble: EnsembleConfig) -> dict[str, str]:
    """Say how an ensemble's texts are drawn, each parameter as JSON."""
    return {name: json.dumps(value) for name, value in ensemble.generation.model_dump(mode="json").items()}


def text_facts(ensemble: EnsembleConfig) -> dict[str, str]:
    """Say what a calibration on texts depends on besides the members: how they are drawn, and how answers are read."""
    return {**generation_facts(ensemble), "answer": ensemble.answer.model_dump_json()}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give the path of a spec") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "it is not UTF-8 text", "give the path of a spec") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"it is not valid YAML: {_one_line(error)}", "mend it there") from error
    except RecursionError as error:
        raise ConfigError(str(path), "it is nested too deeply, or within itself", "write it flatter") from error
    if not isinstance(data, dict):
        raise ConfigError(str(path), "it is not a mapping", "begin with `version: 1` and `members:`")
    return data


def spec_schema() -> str:
    """Give the spec's JSON schema, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Spec.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def _with_checkpoints(member: MemberConfig, folder: Path, where: str) -> MemberConfig:
    """Take a member's checkpoints from the spec's folder or the cache."""
    changed: dict[str, object] = {"checkpoint": _checkpoint(member.checkpoint, folder, where=f"{where}.checkpoint")}
    if isinstance(member.engine, FusedEngineConfig):
        others = tuple(
            _checkpoint(other, folder, where=f"{where}.engine.others[{n}]")
            for n, other in enumerate(member.engine.others)
        )
        fused = member.engine.model_copy(update={"others": others})
        changed["engine"] = _with_weights(fused, folder, where=f"{where}.engine.weights_from")
    if isinstance(member.engine, VllmEngineConfig) and member.engine.lora:
        lora = _folder(member.engine.lora, folder, where=f"{where}.engine.lora")
        changed["engine"] = member.engine.model_copy(update={"lora": lora})
    return member.model_copy(update=changed)


def _with_weights(engine: FusedEngineConfig, folder: Path, *, where: str) -> FusedEngineConfig:
    """Put the numbers of a calibration in the place of its name."""
    if engine.weights_from is None:
        return engine
    file = Path(_path(engine.weights_from.calibration, folder, where=f"{where}.calibration"))
    strategies = load_calibration(file).strategies
    strategy = {"linear": "soft_vote", "geometric": "log_pool"}[engine.pooling]
    if strategy not in strategies:
        problem = f"{file} was made for {', '.join(strategies) or 'no strategy'}, and a {engine.pooling} mixture"
        raise ConfigError(where, f"{problem} takes the weights of {strategy}", "run `ensemble calibrate` for it")
    weights = strategies[strategy].weight_by_member
    for index, name in enumerate(engine.weights_from.members):
        if weights.get(name, 0.0) <= 0.0:
            has = f"gives {name} the weight {weights[name]:g}" if name in weights else f"has {', '.join(weights)}"
            remedy = "name its members in the checkpoints' order, and leave out a checkpoint that is worth nothing"
            raise ConfigError(f"{where}.members[{index}]", f"{name!r}: the calibration {has}", remedy)
    found = tuple(weights[name] for name in engine.weights_from.members)
    return engine.model_copy(update={"weights": found, "weights_from": None})


def _checkpoint(reference: str, folder: Path, *, where: str) -> str:
    if not reference or reference.startswith(PACKAGE_PREFIX):
        return reference
    if reference.startswith(STORE_PREFIX):
        return _stored(reference, folder, where=where)
    try:
        if reference.startswith(CACHE_PREFIX):
            return str(cache_dir().resolve() / reference.removeprefix(CACHE_PREFIX))
        path = folder / Path(reference).expanduser()
        is_path = reference.startswith(("./", "../", "~", "/")) or path.suffix == ".gguf" or path.exists()
        return str(path.resolve()) if is_path else reference
    # An unknown user's home, a name too long for a file, a null character.
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(where, f"{reference!r} cannot be a path ({error})", "mend it") from error


def _stored(reference: str, folder: Path, *, where: str) -> str:
    """Write which store a reference means, so that another machine's environment cannot make it another."""
    try:
        stored = parse_stored(reference, url=store_url())
    except CheckpointError as error:
        raise ConfigError(where, f"{reference!r}: {error.problem}", error.remedy) from error
    if "://" in stored.url:
        return str(stored)
    return str(replace(stored, url=str((folder / Path(stored.url).expanduser()).resolve())))


def _folder(text: str, folder: Path, *, where: str) -> str:
    """Take what is always a folder, and so never a name of something elsewhere, from the cache or the spec's folder."""
    take = _checkpoint if text.startswith(CACHE_PREFIX) else _path
    return take(text, folder, where=where)


def _with_paths(ensemble: EnsembleConfig, folder: Path, index: int) -> EnsembleConfig:
    """Take an ensemble's own paths from the spec's folder."""
    where = f"ensembles[{index}]"
    changed: dict[str, object] = {}
    if ensemble.calibration:
        changed["calibration"] = _path(ensemble.calibration, folder, where=f"{where}.calibration")
    if ensemble.feedback:
        state_dir = _path(ensemble.feedback.state_dir, folder, where=f"{where}.feedback.state_dir")
        changed["feedback"] = ensemble.feedback.model_copy(update={"state_dir": state_dir})
    return ensemble.model_copy(update=changed) if changed else ensemble


def _with_tls(router: RouterConfig, folder: Path) -> RouterConfig:
    """Take the router's PEM files from the spec's folder; links stay, since a rotation may turn them elsewhere."""
    if router.tls is None:
        return router
    given = router.tls.model_dump(include={"certificate", "key", "client_ca"}, exclude_defaults=True)
    changed = {name: _path(text, folder, where=f"router.tls.{name}", keep_links=True) for name, text in given.items()}
    return router.model_copy(update={"tls": router.tls.model_copy(update=changed)})


def _path(text: str, folder: Path, *, where: str, keep_links: bool = False) -> str:
    try:
        path = folder / Path(text).expanduser()
        return str(path.absolute() if keep_links else path.resolve())
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(where, f"{text!r} cannot be a path ({error})", "mend it") from error


def _check_has_what_is_wanted(calibration: Calibration, ensemble: EnsembleConfig) -> None:
    """Refuse a calibration that lacks what the spec wants to use of it, for choices or for short answers."""
    where = f"ensembles.{ensemble.name}"
    strategies = dict.fromkeys((ensemble.classify_strategy, ensemble.generate_strategy))
    used = [calibration.strategies[name] for name in strategies if name in calibration.strategies]
    wants_confidence = ensemble.asking.min_confidence < 1.0 or ensemble.abstain_below is not None
    is_wanted = wants_confidence or ensemble.quorum.risk or ensemble.label_set_alpha
    missing = [name for name in strategies if name in CALIBRATED_STRATEGIES and name not in calibration.strategies]
    if missing or (is_wanted and not used):
        known = ", ".join(calibration.strategies) or "no strategy"
        problem = f"it was made for {known}, and {' or '.join(missing or strategies)} is wanted"
        raise ConfigError(f"{where}.calibration", problem, "run `ensemble calibrate` for it, or take another strategy")
    alphas = [one.conformal_alpha for one in used]
    if ensemble.label_set_alpha is not None and ensemble.label_set_alpha not in alphas:
        problem = f"it is {ensemble.label_set_alpha:g}, and the calibration's is {alphas[0] or 'not set'}"
        raise ConfigError(f"{where}.label_set_alpha", problem, "run `ensemble calibrate` again for it")
    bounds = [certificate.bound for one in used for certificate in one.certificates]
    if ensemble.quorum.risk and min(bounds, default=1.0) > ensemble.quorum.risk:
        problem = f"it is {ensemble.quorum.risk:g}, and no certificate of the calibration bounds the risk so far"
        raise ConfigError(f"{where}.quorum.risk", problem, "allow more, calibrate on more items, or leave it out")


def _own_problems(error: ValidationError) -> list[Any]:
    """Leave out that a list is too short where its items were only refused."""
    problems = error.errors()
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or all(other is problem or other["loc"][: len(problem["loc"])] != problem["loc"] for other in problems)
    ]


def _place(location: tuple[int | str, ...]) -> str:
    # Tagged unions put their tag into the location, which is no key of the file.
    keys = [key for key in location if key not in {"embedded", "classifier", "echo", "fused", "vllm"}]
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return path.lstrip(".") or "the spec"


def _problem(problem: Any) -> str:
    if problem["loc"] == ("version",) and problem["type"] == "literal_error":
        return f"it is {problem['input']!r}, and this program reads {problem['ctx']['expected']} (see CHANGELOG.md)"
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ")
        return f"{message[0].lower()}{message[1:]}"
    key = str(problem["loc"][-1])
    near = difflib.get_close_matches(key, sorted(set(_field_names(Spec))), n=1)
    return f"there is no such key{f'; did you mean {near[0]!r}?' if near else ''}"


def _field_names(model: type[BaseModel]) -> Iterator[str]:
    for definition in (model.model_json_schema(), *model.model_json_schema().get("$defs", {}).values()):
        yield from definition.get("properties", {})


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
