"""Reads a short answer out of a model's text and brings equal answers to one spelling."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from ensemble.errors import InvalidRequestError

Extract = Literal["auto", "first_line", "last_number", "pattern"]
MAX_PATTERN_CHARACTERS = 512

# A base model often goes on with the next exercise or turn: what follows is not its answer to this one.
_NEXT_TURN = re.compile(r"^[ \t*#]*(?:question|q|user|human)[ \t]*:", re.IGNORECASE | re.MULTILINE)
# "the answer is 7", "**Final Answer:** 7", "Answer:\n7", and GSM8K's "#### 7" (Cobbe et al. 2021, arXiv:2110.14168).
_MARKER = re.compile(
    r"(?:\banswer(?:\s+to\s+(?:the|this|your)\s+question)?[\s*_]*(?:\bis\b(?![\s*_]*not\b)|:|=)|^####)[\s*_:]*",
    re.IGNORECASE | re.MULTILINE,
)
_BRACE = re.compile(r"(?:\\(?:boxed|fbox)[ \t]*)?\{|\}")
# A sentence ends at . ! ? before a space, but not in "Dr. Who" or "U.S. Army"; a reason is not part of the answer.
_SENTENCE_END = re.compile(
    r"""
    (?<!\bmr) (?<!\bms) (?<!\bdr) (?<!\bst) (?<!\bvs) (?<!\bjr) (?<!\bsr) (?<!\bmrs) (?<!\.[a-z])
    [.!?] (?= ["'*_)\]]* (?: \s | $ ) )
    | ,? \s (?: because | since ) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A sign counts only where nothing is joined to its left: the last number of "3-5" is 5.
_NUMBER_IN_TEXT = re.compile(
    r"""
    (?: (?<! [^\s(\[{$=:*] ) [-+\u2212] )? (?<! [^\W_] )
    (?: (?: [0-9]{1,3} (?: ,[0-9]{3} )+ (?![0-9]) | [0-9]+ ) (?: \.[0-9]+ )? | \.[0-9]+ )
    """,
    re.VERBOSE,
)
_REFUSAL = re.compile(
    r"""
    (?: (?: (?:i'?m | i\ am)\s+ )? (?:very\ | so\ )? sorry | unfortunately | i\ apologi[sz]e )? [\s,.]* (?: but\s+ )?
    (?: as\ an\ ai\b [^.\n]{0,60}? , \s* )?
    (?: (?: i\s (?: can\s?not | can'?t | could\ not | couldn'?t | will\ not | won'?t )
          | (?: i'?m | i\ am ) \s (?: unable | not\ able ) \s to ) \s+
        (?: (?: answer | assist | provide | respond | comply | determine )\b
          | help (?= \s+(?:you|with)\b | \s*(?:[.!,]|$) ) )
      | i\s (?: do\ not | don'?t ) \s (?: know | have\ an\ answer ) (?= \s*(?:[.!,;]|$) | \s+(?:the|that|this)\b )
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECOND_THOUGHT = re.compile(r"\b(?:but|however|though|guess|think|probably)\b", re.IGNORECASE)

_APOSTROPHES_AND_MINUS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2212": "-"})
_THOUSANDS = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_KEPT_MARKS = frozenset("'.,-/%#")
# What is left of those marks means nothing, except in 3.5  .5  -5  1/2  50%  C#.
_LOOSE_MARK = re.compile(
    r"""
    (?P<joint> ' | \.(?![0-9]) | (?<=[^0-9\s$+-])\. )
    | ,
    | (?<=[^\s$])- | -(?!\$?\.?[0-9])
    | (?<![0-9])/ | /(?![0-9])
    | (?<![0-9])%
    | (?<![^\W_])\#
    """,
    re.VERBOSE,
)
_NUMBER = re.compile(r"[$€£¥₹]?([-+]?)[$€£¥₹]?([0-9]*)(?:\.([0-9]+))?(%?)")
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    r"""How a short answer is read from a text.

    ``auto``: after the last explicit marker ("the answer is ...", "Answer: ...", "#### ..."), else the last
    ``\boxed{...}``, else the first sentence of the first line with text in it. ``first_line``: that line as it is.
    ``last_number``: the last number of the text. ``pattern``: the first match of the regular expression ``pattern``,
    or of its only group. A pattern runs unbounded on what members wrote, so it comes from the operator.
    """

    extract: Extract = "auto"
    pattern: str = ""

    def __post_init__(self) -> None:
        """Refuse a rule that cannot be applied."""
        if self.extract not in get_args(Extract):
            known = ", ".join(get_args(Extract))
            raise InvalidRequestError(
                "answer_rule.extract", f"there is no rule {self.extract!r}", f"use one of {known}"
            )
        if (self.extract == "pattern") != bool(self.pattern):
            problem = "'pattern' and a pattern go together" if self.pattern else "'pattern' needs a pattern"
            raise InvalidRequestError("answer_rule.pattern", problem, "give both, or neither")
        _check_pattern(self.pattern)


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        problem = f"it has {len(pattern)} characters"
        raise InvalidRequestError("answer_rule.pattern", problem, f"use at most {MAX_PATTERN_CHARACTERS}")
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        problem = f"it is not a regular expression: {error}"
        raise InvalidRequestError("answer_rule.pattern", problem, "write it in the syntax of Python's re") from error
    if num_groups > 1:
        problem = f"it has {num_groups} groups"
        raise InvalidRequestError("answer_rule.pattern", problem, "use one group at most, and (?:...) for the others")


def extract_answer(text: str, rule: AnswerRule) -> str | None:
    """Read the answer as the member wrote it, or None when the text has none."""
    match rule.extract:
        case "pattern":
            answer = _first_match(text, rule.pattern)
        case "last_number":
            answer = _last_number(_this_turn(text))
        case "first_line":
            answer = _first_line(text)
        case "auto":
            own = _this_turn(text)
            explicit = _explicit_answer(own)
            answer = _first_sentence(_first_line(own)) if explicit is None else explicit
    return answer if normalise_answer(answer) else None


def is_refusal(text: str) -> bool:
    """Say whether a text declines to answer.

    Conservative: it must begin with the refusal, and neither an explicit answer nor a second thought ("but", "I
    think") may follow. A label such as "unanswerable" or "none" is an answer.
    """
    own = _this_turn(text).translate(_APOSTROPHES_AND_MINUS).lstrip(" \t\r\n*\"'")
    refusal = _REFUSAL.match(own)
    return bool(refusal and not _SECOND_THOUGHT.search(own, refusal.end()) and not _explicit_answer(own))


def normalise_answer(answer: str) -> str:
    """Bring an answer to the spelling under which equal answers meet; "" when nothing is left.

    Unicode NFKC and case folding; leading articles, punctuation and repeated space go (after SQuAD: Rajpurkar et al.
    2016, arXiv:1606.05250, which drops articles everywhere: here "vitamin A" stays); a number loses its thousands
    commas, trailing zeros, plus sign and currency, and keeps its minus and its percent. An article that is the whole
    answer stays: it may be the choice "A". Applying it twice changes nothing.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", answer).casefold())
    spaced = "".join(map(_space_or_character, folded.translate(_APOSTROPHES_AND_MINUS)))
    joined = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), spaced)
    bare = _LOOSE_MARK.sub(lambda mark: "" if mark["joint"] else " ", joined)
    tokens = [_normalise_token(token) for token in bare.split()]
    while len(tokens) > 1 and tokens[0] in _ARTICLES:
        del tokens[0]
    return " ".join(tokens)


def _this_turn(text: str) -> str:
    next_turn = next((turn for turn in _NEXT_TURN.finditer(text) if text[: turn.start()].strip()), None)
    return text[: next_turn.start()] if next_turn else text


def _explicit_answer(text: str) -> str | None:
    """Read what is announced as the answer; "" when the text ends before giving it, None without announcement."""
    markers = list(_MARKER.finditer(text))
    if not markers:
        return _last_boxed(text) or None
    ends = [*(marker.start() for marker in markers[1:]), len(text)]
    for marker, end in reversed(list(zip(markers, ends, strict=True))):  # the last counts: models correct themselves
        if line := _first_line(text[marker.end() : end]):
            return _last_boxed(line) or _first_sentence(line)
    return ""


def _last_boxed(text: str) -> str:
    content = ""
    starts: list[int | None] = []  # of the braces that are open; None for those that are not a box
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            starts.append(None if brace[0] == "{" else brace.end())
        elif starts and (start := starts.pop()) is not None:
            content = text[start : brace.start()]
    return content


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _first_sentence(line: str) -> str:
    end = _SENTENCE_END.search(line)
    return line[: end.start()].strip() if end else line


def _last_number(text: str) -> str:
    return next((number[0] for number in reversed(list(_NUMBER_IN_TEXT.finditer(text))) if number[0]), "")


def _first_match(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return (match[match.re.groups] or "") if match else ""


def _space_or_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width spaces, soft hyphens and direction marks are invisible
        return ""
    return " " if category[0] in "PZC" and character not in _KEPT_MARKS else character


def _normalise_token(token: str) -> str:
    number = _NUMBER.fullmatch(token)
    if not number or not (number[2] or number[3]):
        return token
    sign, whole, fraction, percent = number[1], number[2] or "0", (number[3] or "").rstrip("0"), number[4]
    if whole.strip("0") and whole[0] == "0":  # "007" is a name
        return token
    value = f"{whole}.{fraction}" if fraction else whole
    return f"{'-' if sign == '-' and value.strip('0.') else ''}{value}{percent}"
