"""JSON answers, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting import AbstentionReason, DecidedBy, Quorum
from ensemble.voting.field_vote import find_object
from tests.voting.panels import build_question, count, decide, hard, text


def vote(*texts: str, weights: list[float] | None = None) -> Any:
    question = build_question(weights or [1.0] * len(texts), ())
    return decide("field_vote", question, [text(n, words) for n, words in enumerate(texts)])


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        # No member is right in every field; together they are.
        (
            ['{"a": 1, "b": 2, "c": 0}', '{"a": 1, "b": 0, "c": 3}', '{"a": 0, "b": 2, "c": 3}'],
            {"a": 1, "b": 2, "c": 3},
        ),
        # A field that most leave out is left out, one that most have is in.
        (['{"a": 1, "x": 9}', '{"a": 1, "y": 2}', '{"y": 2}'], {"a": 1, "y": 2}),
        # Inside an object only those vote who say that there is one.
        (
            ['{"p": {"q": 1, "r": {"s": true}}}', '{"p": {"q": 2, "r": {"s": true}}}', '{"p": {"q": 2}}', '{"p": 2}'],
            {"p": {"q": 2, "r": {"s": True}}},
        ),
        (['{"p": {"q": 1}}', '{"p": "none"}', '{"p": "None."}'], {"p": "None."}),
        # Equal values meet, the commonest spelling speaks.
        (['{"t": "New York"}', '{"t": "new york."}', '{"t": "New York"}', '{"t": "Boston"}'], {"t": "New York"}),
        (['{"n": 1.0}', '{"n": 1}', '{"n": 1}', '{"n": 7}', '{"n": 7}'], {"n": 1}),
        # A date keeps its hyphens; types are not mixed; null is a value, and so is a list.
        (['{"d": "2024-05-01"}'] * 2 + ['{"d": "1999-01-01"}'], {"d": "2024-05-01"}),
        (['{"v": "1"}', '{"v": 1}', '{"v": 1}'], {"v": 1}),
        (['{"v": true}', '{"v": 1}', '{"v": true}'], {"v": True}),
        (['{"v": null}', '{"v": null}', "{}"], {"v": None}),
        (['{"l": ["A", 1]}', '{"l": ["a", 1.0]}', '{"l": [1, "a"]}'], {"l": ["A", 1]}),
        (['{"e": {}}', '{"e": {}}', '{"e": {"f": 1}}'], {"e": {}}),
    ],
)
def test_each_field_goes_to_its_own_majority(texts: list[str], answer: dict[str, Any]) -> None:
    decision = vote(*texts)

    assert decision.answer == json.dumps(answer, sort_keys=True)


def test_weights_decide_and_the_heavier_member_wins_a_tie() -> None:
    assert vote('{"a": 1}', '{"a": 2}', '{"a": 2}', weights=[3.0, 1.0, 1.0]).answer == '{"a": 1}'
    assert vote('{"a": 1}', '{"a": 2}', '{"a": 2}', weights=[2.0, 1.0, 1.0]).answer == '{"a": 1}'
    assert vote('{"a": 2}', '{"a": 1}').answer == '{"a": 1}'


def test_the_evidence_is_of_the_least_agreed_field() -> None:
    decision = vote('{"a": 1, "b": 1}', '{"a": 1, "b": 1}', '{"a": 1, "b": 2}', '{"a": 1, "b": 3}')

    assert (decision.agreement, decision.margin) == (0.5, 0.25)
    assert [(c.answer, c.weight, c.members) for c in decision.candidates] == [
        ('{"a": 1, "b": 1}', 2.0, ("m0", "m1")),
        ('{"a": 1, "b": 2}', 1.0, ("m2",)),
        ('{"a": 1, "b": 3}', 1.0, ("m3",)),
    ]
    assert decision.confidence is None


def test_an_answer_that_nobody_gave_says_so() -> None:
    decision = vote('{"a": 1, "b": 2, "c": 0}', '{"a": 1, "b": 0, "c": 3}', '{"a": 0, "b": 2, "c": 3}')

    assert (decision.candidates[0].weight, decision.candidates[0].members) == (0.0, ())


def test_a_vote_is_decided_once_no_field_and_no_new_one_can_win() -> None:
    question = build_question([1.0] * 5, ())
    same = '{"a": "x"}'

    two = count("field_vote", question, [text(0, same), text(1, same)])
    three = two.add(text(2, same))
    torn = two.add(text(2, '{"a": "x", "b": 1}'))

    assert not two.is_decided()
    assert three.is_decided()
    assert not torn.is_decided()  # b is absent by 2 to 1, and two are out
    assert torn.add(text(3, same)).is_decided()
    assert three.decide(DecidedBy.LOSSLESS_QUORUM).answer == same


def test_a_spelling_that_late_ballots_can_turn_is_not_decided() -> None:
    question = build_question([1.0] * 5, ())

    tally = count("field_vote", question, [text(0, '{"a": "X"}'), text(1, '{"a": "x"}'), text(2, '{"a": "X"}')])

    assert not tally.is_decided()


def test_fields_wait_like_everything_else() -> None:
    question = build_question([1.0] * 3, (), Quorum(stop_early=False))
    tally = count("field_vote", question, [text(0, "{}"), text(1, "{}")])

    assert not tally.is_decided()
    assert not tally.is_certified()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure! {"a": {"b": [1, 2]}} Anything else?', {"a": {"b": [1, 2]}}),
        ('Use {braces} like {"a": 1}.', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('First {"a": 0}, corrected:\n```\n{"a": 1}\n```', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('{"a": "}"} {"a": 2}', {"a": "}"}),
        ("[1, 2]", None),
        ("no object", None),
        ('{"a": NaN}', None),
        ('{"a": 1e999}', None),
        ('{"a": "\\ud800"}', None),
        ('{"a": ' * 40 + "1" + "}" * 40, {"a": 1}),
        ('{"a": ' * 100_000, None),
        ("{" * 100_000, None),
        ('{"a": ' + "9" * 5000 + "}", None),
    ],
)
def test_the_first_object_of_a_text_is_found(words: str, found: dict[str, Any] | None) -> None:
    result = find_object(words)

    if words.endswith("}" * 40):  # too deep as a whole: the deepest that is not
        assert result is not None
    else:
        assert result == found


def test_a_text_without_an_object_abstains() -> None:
    tally = count("field_vote", build_question([1.0, 1.0], ()), [text(0, "I cannot say."), text(1, " ")])

    votes = [tally.vote_of("m0"), tally.vote_of("m1")]

    assert [getattr(vote, "reason", None) for vote in votes] == [AbstentionReason.UNPARSEABLE] * 2
    assert tally.num_cast == 0


def test_what_fields_cannot_be_voted_on_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="choices"):
        count("field_vote", build_question([1.0]), [])
    with pytest.raises(InvalidRequestError, match="negative"):
        count("field_vote", build_question([1.0, -0.5], ()), [])
    with pytest.raises(InvalidRequestError, match="no text"):
        count("field_vote", build_question([1.0], ()), [hard(0, "red")])
