"""From what was found out about each checkpoint to the comparison's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ensemble.calibration.selection import OnPanel
from ensemble.calibration.statistics import accuracy_interval, mcnemar
from ensemble.compression.record import count_weight_bytes
from ensemble.engines.footprint import measure_footprint
from ensemble.engines.model_loading import choose_device
from ensemble.engines.prompt_format import ScoringRuleName
from ensemble.variants.compare_task import CompareTask
from ensemble.variants.diversity import find_clones, measure_item_diversity, measure_text_diversity, write_remarks
from ensemble.variants.figures import ComparisonFigures, ItemFigures, Sizes, VariantFigures
from ensemble.variants.lineage import Candidate, Family
from ensemble.variants.measure_items import is_right, measure_accuracy
from ensemble.variants.measure_speed import SpeedRound
from ensemble.variants.measure_text import compare_text, measure_text
from ensemble.variants.panel import propose_panel
from ensemble.variants.spread import Estimate
from ensemble.variants.text_reading import TextReading
from ensemble.variants.turns import build_speed_figures
from ensemble.voting.ballot import Abstention, Ballot, Vote


@dataclass(slots=True, kw_only=True)
class Findings:
    """What is known of one checkpoint so far; ``missing`` says why what is not known is not."""

    reading: TextReading | None = None
    decoding_drift: float | None = None
    votes_by_scoring: dict[ScoringRuleName, tuple[Vote, ...]] = field(default_factory=dict)
    rounds: tuple[SpeedRound, ...] = ()
    grown_bytes: int | None = None
    missing: list[str] = field(default_factory=list)


def build_figures(
    task: CompareTask, findings: Mapping[str, Findings], *, on_panel: OnPanel = lambda _done, _total: None
) -> ComparisonFigures:
    """Sum up, compare with the originals, and look for a panel."""
    members = [(member, family) for family in task.families for member in family.members]
    readings = {name: found.reading for name, found in findings.items() if found.reading is not None}
    votes = _votes_by_voter(task, findings)
    family_by_name = _family_by_name(task)
    texts, items = measure_text_diversity(readings), measure_item_diversity(votes, task.items)
    diversity = tuple(figures for figures in (texts, items) if figures)
    clones = find_clones(diversity, family_by_name)
    panel = propose_panel(votes, task.items, family_by_name=family_by_name, clones=clones, on_panel=on_panel)
    return ComparisonFigures(
        variants=tuple(_variant_figures(member, family, task, findings) for member, family in members),
        conditions=task.describe(),
        diversity=diversity,
        clones=clones,
        remarks=write_remarks(diversity, clones, family_by_name),
        panel=panel if task.items else None,
    )


def _votes_by_voter(task: CompareTask, findings: Mapping[str, Findings]) -> dict[str, tuple[Vote, ...]]:
    return {
        task.voter_name(name, scoring): tuple(replace(vote, member=task.voter_name(name, scoring)) for vote in votes)
        for name, found in findings.items()
        for scoring, votes in found.votes_by_scoring.items()
    }


def _family_by_name(task: CompareTask) -> dict[str, str]:
    """Give the family of every voter; checkpoints have the names of their first scoring."""
    return {
        task.voter_name(member.name, scoring): family.name
        for family in task.families
        for member in family.members
        for scoring in task.scorings
    }


def _variant_figures(
    member: Candidate, family: Family, task: CompareTask, findings: Mapping[str, Findings]
) -> VariantFigures:
    found, original = findings[member.name], findings[family.original.name]
    is_original = member.name == family.original.name
    beside = None
    if not is_original and found.reading is not None and original.reading is not None:
        beside = compare_text(found.reading, original.reading)
    return VariantFigures(
        name=member.name,
        family=family.name,
        reference=member.reference,
        digest=member.digest,
        is_original=is_original,
        made_by=member.made_by,
        sizes=_measure_sizes(member, family, task, found),
        text=measure_text(found.reading) if found.reading else None,
        decoding_drift=found.decoding_drift,
        beside=beside,
        items=_item_figures(found, original, task, is_original=is_original),
        speeds=build_speed_figures(found.rounds, () if is_original else original.rounds) if found.rounds else (),
        missing=tuple(found.missing),
    )


def _item_figures(found: Findings, original: Findings, task: CompareTask, *, is_original: bool) -> ItemFigures | None:
    votes, others = (one.votes_by_scoring.get(task.scorings[0]) for one in (found, original))
    if votes is None:
        return None
    figures = ItemFigures(
        num_items=len(votes),
        num_abstained=sum(isinstance(vote, Abstention) for vote in votes),
        accuracy=measure_accuracy(votes, task.items),
        choice_agreement=None,
        p_value=None,
    )
    if is_original or others is None:
        return figures
    right, theirs = (
        [is_right(vote, item) for vote, item in zip(one, task.items, strict=True)] for one in (votes, others)
    )
    return replace(figures, choice_agreement=_agree(votes, others), p_value=mcnemar(right, theirs).p_value)


def _agree(votes: Sequence[Vote], others: Sequence[Vote]) -> Estimate | None:
    """Give the share of the items with two ballots on which both chose the same."""
    both = [
        vote.choice == other.choice
        for vote, other in zip(votes, others, strict=True)
        if isinstance(vote, Ballot) and isinstance(other, Ballot)
    ]
    if not both:
        return None
    return Estimate(value=sum(both) / len(both), interval=accuracy_interval(sum(both), len(both)))


def _measure_sizes(member: Candidate, family: Family, task: CompareTask, found: Findings) -> Sizes:
    setup = task.setup_of(family)
    footprint = measure_footprint(
        setup.config(is_classifier=member.is_classifier),
        checkpoint=str(member.folder),
        on_gpu=choose_device(setup.device) == "cuda",
        cache_dir=setup.cache_dir,
    )
    resident_bytes = None
    if found.grown_bytes is not None:
        # The cache is as large for all; what is wanted is what the weights and the passes take.
        resident_bytes = found.grown_bytes - footprint.max_cache_bytes
    return Sizes(
        file_bytes=count_weight_bytes(member.folder),
        weight_bytes=footprint.weight_bytes,
        resident_bytes=resident_bytes,
    )
