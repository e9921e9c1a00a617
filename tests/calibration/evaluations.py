"""Item sets, votes and manifests for the tests of evaluations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ensemble.calibration.ballot_store import StoredEvaluation, StoredSet
from ensemble.calibration.item_file import ItemSet, digest_items
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.manifest import EvaluationManifest, MemberFacts, SetFacts
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote

MEMBERS = ("a", "b")


def choice_items(count: int, *, num_choices: int = 3) -> tuple[LabelledItem, ...]:
    """Make questions whose right answers go round."""
    choices = tuple(f"choice {n}" for n in range(num_choices))
    return tuple(
        LabelledItem(item_id=f"q{n}", prompt=f"Question {n}?", choices=choices, answer=n % num_choices)
        for n in range(count)
    )


def item_set(items: Sequence[LabelledItem], *, name: str = "set") -> ItemSet:
    """Make a set."""
    return ItemSet(name=name, items=tuple(items), digest=digest_items(items))


def manifest_of(
    *sets: ItemSet, members: Sequence[str] = MEMBERS, fingerprint: str = "f", digest: str = ""
) -> EvaluationManifest:
    """Describe an evaluation of members that are a family each."""
    return EvaluationManifest(
        ensemble="default",
        members=tuple(
            MemberFacts(
                name=member,
                family=f"family-{member}",
                fingerprint=f"{fingerprint}-{member}",
                checkpoint_digest=digest,
            )
            for member in members
        ),
        sets=tuple(SetFacts(name=one.name, digest=one.digest, num_items=len(one.items)) for one in sets),
        generation={"max_tokens": "8"},
        made_by="a test",
    )


def ballot(member: str, item: LabelledItem, choice: int, *, sure: float = 0.7, latency_s: float = 0.1) -> Ballot:
    """Vote for a choice, the rest of the probability going to the others evenly."""
    rest = (1.0 - sure) / (len(item.choices) - 1)
    return Ballot(
        member=member,
        family=f"family-{member}",
        choice=item.choices[choice],
        probabilities=tuple(sure if n == choice else rest for n in range(len(item.choices))),
        logprob=-0.5,
        latency_s=latency_s,
        prompt_tokens=7,
    )


def silence(member: str, *, latency_s: float = 0.2) -> Abstention:
    """Abstain."""
    return Abstention(
        member=member,
        family=f"family-{member}",
        reason=AbstentionReason.ERROR,
        detail="it broke",
        latency_s=latency_s,
    )


def simulated(
    items: Sequence[LabelledItem],
    accuracy_by_member: dict[str, float],
    *,
    seed: int = 0,
    silent: dict[str, float] | None = None,
) -> StoredEvaluation:
    """Let members answer independently with these accuracies, and abstain with the probabilities of ``silent``."""
    generator = random.Random(seed)
    item_votes = []
    for item in items:
        votes: list[Vote] = []
        for place, (member, accuracy) in enumerate(accuracy_by_member.items()):
            right = item.answer or 0
            wrong = (right + generator.randrange(1, len(item.choices))) % len(item.choices)
            chosen = right if generator.random() < accuracy else wrong
            vote = ballot(member, item, chosen, sure=generator.uniform(0.5, 0.9), latency_s=0.1 * (place + 1))
            votes.append(silence(member) if generator.random() < (silent or {}).get(member, 0.0) else vote)
        item_votes.append(ItemVotes(item=item, votes=tuple(votes)))
    return StoredEvaluation(
        manifest=manifest_of(item_set(items), members=tuple(accuracy_by_member)),
        sets=(StoredSet(name="set", item_votes=tuple(item_votes)),),
    )
