"""What a comparison is asked to do, and what would make its figures wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ensemble.calibration.items import LabelledItem
from ensemble.engines.prompt_format import ScoringRuleName
from ensemble.errors import ConfigError
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.lineage import Family
from ensemble.variants.measure_speed import SpeedTask
from ensemble.variants.passages import JudgingText


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareTask:
    """What is compared and how; without ``speed`` nothing is timed.

    Each model is asked the items by each of ``scorings``; the first one's choices are its accuracy, the others stand
    for further voters of the same checkpoint. Families in ``bos_families`` get a BOS token that their tokenizer does
    not put.
    """

    families: tuple[Family, ...]
    text: JudgingText
    items: tuple[LabelledItem, ...] = ()
    scorings: tuple[ScoringRuleName, ...] = ("mean_logprob",)
    setup: EngineSetup = field(default_factory=EngineSetup)
    bos_families: frozenset[str] = frozenset()
    speed: SpeedTask | None = field(default_factory=SpeedTask)
    num_rounds: int = 3

    def setup_of(self, family: Family) -> EngineSetup:
        """Give the setup for a family's models."""
        add_bos = True if family.name in self.bos_families else self.setup.add_bos
        prompt = self.setup.prompt.model_copy(update={"scoring": self.scorings[0]})
        return replace(self.setup, add_bos=add_bos, prompt=prompt)

    def voter_name(self, member: str, scoring: ScoringRuleName) -> str:
        """Name a checkpoint as a voter by one of the scorings."""
        return member if scoring == self.scorings[0] else f"{member} by {scoring}"

    def describe(self) -> dict[str, str | int | float]:
        """Say how figures come about, for whoever reads them."""
        setup = self.setup
        described: dict[str, str | int | float] = {
            "text": self.text.name,
            "num_passages": len(self.text.passages),
            "num_items": len(self.items),
            "scoring": ", ".join(self.scorings),
            "engine": setup.engine,
            "device": setup.device,
            "dtype": setup.dtype,
            "threads": setup.threads,
        }
        if self.speed is not None:
            described |= {"num_rounds": self.num_rounds, "max_tokens": self.speed.max_tokens}
        return described


def check_task(task: CompareTask) -> None:
    """Refuse what would give wrong figures, before anything is measured.

    Raises:
        ConfigError: see ``compare_variants``.
    """
    names = [family.name for family in task.families]
    if unknown := sorted(task.bos_families.difference(names)):
        raise ConfigError("--add-bos", f"{unknown[0]!r} is no original", f"name some of {', '.join(names)}")
    for member in (member for family in task.families for member in family.members):
        if member.facts and member.facts.text_digests.intersection(task.text.digests):
            problem = f"{member.name} was made with the text that it would be judged by ({task.text.name})"
            raise ConfigError("--text", problem, "give text that no recipe has seen, or none to use the package's own")
