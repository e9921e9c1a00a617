"""Variants of one or several families beside their originals: everything that can be measured, and why the rest is not.

Texts are read first, an original and one variant in memory at a time. Then a family's engines are started, each in a
process of its own, asked the items one after another, and timed in turns.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.model_loading import choose_device
from ensemble.errors import CheckpointError, MemberError
from ensemble.variants.compare_task import CompareTask, check_task
from ensemble.variants.engine_process import EngineOrder, EngineProcess
from ensemble.variants.figures import ComparisonFigures
from ensemble.variants.findings import Findings, build_figures
from ensemble.variants.lineage import Candidate, Family
from ensemble.variants.text_reader import KEPT_BYTES, TextReader, reading_threads
from ensemble.variants.text_reading import measure_decoding_drift, read_text
from ensemble.variants.turns import find_early_ends, take_turns
from ensemble.voting.ballot import Abstention


def compare_variants(task: CompareTask, *, on_phase: OnPhase = ignore_phase) -> ComparisonFigures:
    """Measure everything; what one checkpoint cannot do is written down with its figures.

    Raises:
        ConfigError: a variant's steps have read the text, a family is named that is none, or the machine lacks what is
            asked for.
        MemberError: an engine failed while it was timed.
    """
    check_task(task)
    findings = {member.name: Findings() for family in task.families for member in family.members}
    for family in task.families:
        run = _FamilyRun(family=family, task=task, findings=findings, on_phase=on_phase)
        with reading_threads(task.setup):
            run.read_texts()
        run.run_engines()
    return build_figures(
        task, findings, on_panel=lambda done, total: on_phase("panels", done / total if total else 0.0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FamilyRun:
    """The measuring of one family, which fills the findings."""

    family: Family
    task: CompareTask
    findings: dict[str, Findings]
    on_phase: OnPhase

    def read_texts(self) -> None:
        """Read the text with every model, the variants' beside the original."""
        original = self._load_reader(self.family.original)
        for member in self.family.members:
            reader = original if member is self.family.original else self._load_reader(member)
            if reader is None:
                continue
            self.on_phase(f"{member.name}: text", 0.0)
            beside = None if reader is original else original
            found, passages = self.findings[member.name], self.task.text.passages
            try:
                found.reading = read_text(reader, passages, original=beside)
                found.decoding_drift = measure_decoding_drift(reader, passages[0])
            except CheckpointError as error:
                found.missing.append(f"no figures on text: {error.problem}")

    def run_engines(self) -> None:
        """Start every engine, ask the items, and time all in turns."""
        if self.task.speed is None and not self.task.items:
            return
        with ExitStack() as stack:
            processes: dict[str, EngineProcess] = {}
            for member in self.family.members:
                process = self._start_process(member)
                if process is not None:
                    processes[member.name] = stack.enter_context(process)
            for name, process in processes.items():
                self._ask_items(process, name)
            self._time(processes)
            if self.task.setup.engine == "embedded" and choose_device(self.task.setup.device) == "cpu":
                for name, process in processes.items():
                    self.findings[name].grown_bytes = process.resident_bytes()

    def _load_reader(self, member: Candidate) -> TextReader | None:
        try:
            return TextReader.load(
                str(member.folder),
                self.task.setup_of(self.family),
                keep_bytes=KEPT_BYTES if member is self.family.original else 0,
                on_phase=self._hear(member.name),
            )
        except CheckpointError as error:
            self.findings[member.name].missing.append(f"no figures on text: {error.problem}")
            return None

    def _start_process(self, member: Candidate) -> EngineProcess | None:
        setup = self.task.setup_of(self.family)
        process = EngineProcess(
            EngineOrder(
                name=member.name, checkpoint=str(member.folder), is_classifier=member.is_classifier, setup=setup
            )
        )
        try:
            process.start(self._hear(member.name))
        except (CheckpointError, MemberError) as error:
            process.close()
            self.findings[member.name].missing.append(f"no speeds, choices and resident memory: {error.problem}")
            return None
        except BaseException:
            process.close()
            raise
        return process

    def _ask_items(self, process: EngineProcess, name: str) -> None:
        found, items = self.findings[name], self.task.items
        for scoring in self.task.scorings if items else ():
            prompt = self.task.setup.prompt.model_copy(update={"scoring": scoring})
            try:
                votes = process.ask(items, prompt=prompt, on_phase=self._hear(name))
            except (CheckpointError, MemberError) as error:
                found.missing.append(f"no choices by {scoring}: {error.problem}")
                continue
            found.votes_by_scoring[scoring] = votes
            if details := [vote.detail for vote in votes if isinstance(vote, Abstention)]:
                found.missing.append(f"no choice by {scoring} on {len(details)} of {len(votes)} items ({details[0]})")

    def _time(self, processes: dict[str, EngineProcess]) -> None:
        # A classifier writes nothing.
        if self.task.speed is None or not processes or self.family.original.is_classifier:
            return
        turns = take_turns(processes, self.task.speed, self.task.num_rounds, on_phase=self.on_phase)
        for name, rounds in turns.items():
            self.findings[name].rounds = rounds
            self.findings[name].missing += find_early_ends(rounds)

    def _hear(self, name: str) -> OnPhase:
        return lambda phase, share: self.on_phase(f"{name}: {phase}", share)
