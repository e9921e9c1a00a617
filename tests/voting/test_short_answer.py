"""How short answers are read and which of them are equal."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.voting import AnswerRule
from ensemble.voting.short_answer import MAX_PATTERN_CHARACTERS, extract_answer, is_refusal, normalise_answer

AUTO = AnswerRule()


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("Paris", "paris"),
        ("  Paris. ", "paris"),
        ("**Paris**", "paris"),
        ("“Paris”", "paris"),
        ("The Beatles", "beatles"),
        ("the The", "the"),
        ("A", "a"),
        ("(A)", "a"),
        ("vitamin A", "vitamin a"),
        ("U.S.", "us"),
        ("Mr. Smith", "mr smith"),
        ("O\u2019Neil", "oneil"),
        ("New-York", "new york"),
        ("New   York", "new york"),
        ("AT&T", "at t"),
        ("C#", "c#"),
        ("C++", "c++"),
        ("Straße", "strasse"),
        ("ﬁne", "fine"),
        ("x\u200by", "xy"),
        ("1,000.0", "1000"),
        ("1,234,567", "1234567"),
        ("$1,000.50", "1000.5"),
        ("-$5", "-5"),
        ("\u22125", "-5"),
        ("-5.", "-5"),
        ("+5", "5"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("-.50", "-0.5"),
        ("5.00%", "5%"),
        ("3-5", "3 5"),
        ("3/4", "3/4"),
        ("and/or", "and or"),
        ("1,2,3", "1 2 3"),
        ("3.5.2", "3.5.2"),
        ("007", "007"),
        ("10:30", "10 30"),
        ("+", "+"),
        ("...", ""),
        ("-", ""),
        ("", ""),
    ],
)
def test_equal_answers_meet_under_one_key(answer: str, key: str) -> None:
    assert normalise_answer(answer) == key


@given(st.text(max_size=20) | st.text(alphabet="aA the1,0.5-+$%#/' \"*()\u2212é²ß€_½", max_size=10))
def test_normalising_twice_changes_nothing(answer: str) -> None:
    once = normalise_answer(answer)

    assert normalise_answer(once) == once


@given(st.integers(-(10**12), 10**12))
def test_an_integer_has_one_key_however_it_is_written(number: int) -> None:
    spellings = (str(number), f"{number:,}", f"{number}.00", f" {number}. ", f"**{number:,}.0**")

    assert {normalise_answer(spelling) for spelling in spellings} == {str(number)}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("\n\n  Paris\nIt is large.", "Paris"),
        ("Paris. It is the capital.", "Paris"),
        ("Paris, because it is the capital", "Paris"),
        ("3.5. That is all", "3.5"),
        ("Dr. Who. A doctor", "Dr. Who"),
        ("The U.S. Army", "The U.S. Army"),
        ("I think so. The answer is Paris.", "Paris"),
        ("The answer is 5. Wait, the answer is 7.", "7"),
        ("The answer is B. Because of that", "B"),
        ("The answer to the question is 12, since 3*4=12", "12"),
        ("**Final Answer:** 7", "7"),
        ("**Final Answer**: 7", "7"),
        ("Answer:\n  Paris\n", "Paris"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("so it is \\boxed{\\frac{1}{2}}, done", "\\frac{1}{2}"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("The answer is $\\boxed{42}$.", "42"),
        ("\\boxed{never closed", "\\boxed{never closed"),
        ("Paris\nQuestion: the capital of Germany?\nAnswer: Berlin", "Paris"),
        ("Paris\n\nUser: thanks", "Paris"),
        ("answer islands", "answer islands"),
        ("unanswerable", "unanswerable"),
        ("", None),
        (" \n\t ", None),
        ("...", None),
        ("Answer:", None),
        ("Answer:\nAnswer:", None),
        ("Let me think. The answer is", None),
        ("Answer: 5. Therefore, the answer is", "5"),
    ],
)
def test_auto_reads_the_answer_a_person_would_read(text: str, answer: str | None) -> None:
    assert extract_answer(text, AUTO) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7.", "7"),
        ("it costs $1,234.50 in all", "1,234.50"),
        ("-5", "-5"),
        ("x = \u22125", "\u22125"),
        ("pages 3-5", "5"),
        ("gpt2 has .5", ".5"),
        ("7\nQuestion: 8 + 1?\nAnswer: 9", "7"),
        ("seven", None),
        ("", None),
    ],
)
def test_last_number_reads_the_last_number(text: str, answer: str | None) -> None:
    assert extract_answer(text, AnswerRule(extract="last_number")) == answer


def test_first_line_is_taken_whole() -> None:
    text = "\n Paris. The answer is Rome. \nLondon"

    assert extract_answer(text, AnswerRule(extract="first_line")) == "Paris. The answer is Rome."


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [(r"[A-D]\)", "B)"), (r"\b([A-D])\)", "B"), (r"(?i)\b(b|x)\b", "B"), ("z", None), (r"B(z)?", None), (r"\.", None)],
)
def test_a_pattern_gives_its_first_match_or_its_group(pattern: str, answer: str | None) -> None:
    assert extract_answer("I say B) or C).", AnswerRule(extract="pattern", pattern=pattern)) == answer


@pytest.mark.parametrize(
    ("extract", "pattern"),
    [
        ("pattern", "("),
        ("pattern", "(a)(b)"),
        ("pattern", ""),
        ("auto", "a"),
        ("pattern", "a" * (MAX_PATTERN_CHARACTERS + 1)),
        ("second_line", ""),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused(extract: str, pattern: str) -> None:
    with pytest.raises(InvalidRequestError, match="answer_rule"):
        AnswerRule(extract=extract, pattern=pattern)  # type: ignore[arg-type] # it comes from outside


@pytest.mark.parametrize(
    "text",
    [
        "I cannot answer that.",
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I\u2019m unable to provide an answer.",
        "As an AI language model, I cannot answer",
        "Unfortunately, I am not able to determine it",
        "I don't know.",
        "**I do not know the capital.**",
        "I don't know.\nQuestion: what is 2 + 2?\nAnswer: 4",
    ],
)
def test_a_text_that_declines_is_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "unanswerable",
        "none",
        "",
        "I can't help falling in love",
        "I don't know what it's like",
        "I don't know, but I think it is 5",
        "I cannot answer for sure. The answer is 5.",
        "I cannot determine it exactly; \\boxed{5}",
        "He said: I cannot answer that.",
    ],
)
def test_what_may_be_an_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "text",
    ["answer" + " " * 200_000, "answer " * 30_000, "\\boxed{" * 30_000, "-" * 200_000, "1," * 100_000, "." * 200_000],
)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    started_s = time.thread_time()

    for rule in (AUTO, AnswerRule(extract="last_number")):
        extract_answer(text, rule)
    is_refusal(text)

    # Some twenty times what they take; what compares each character with each takes minutes.
    assert time.thread_time() - started_s < 4.0
