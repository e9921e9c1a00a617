"""Makes four small classifiers of tweets and their compressed forms, and says what they are worth together.

``python examples/tweets.py`` needs two cores for some minutes. The checkpoints and the items to evaluate lie in the
cache afterwards, where deploy/specs/tweets.yaml and deploy/specs/tweets-uncompressed.yaml find them:

    ensemble evaluate deploy/specs/tweets.yaml ~/.cache/ensemble/tweets/test.jsonl
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tweet_data import TweetSplit, load_tweets, write_items
from tweet_models import Recipe, build_recipes, predict, train
from tweet_report import Labels, Predictions, compare, correlate_errors, count_right, pool_logs, stack

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.storage import write_folder_whole
from ensemble.compression.compress import compress
from ensemble.compression.recipe import load_recipe
from ensemble.environment import cache_dir

COMPRESSION = Path(__file__).parent.parent / "deploy" / "recipes" / "sparse-int4.yaml"
SMALL = "-sparse-int4"
SEED = 1
THREADS = 2


def make_members(console: Console) -> TweetSplit:
    """Train, write and compress what the cache lacks; the items to evaluate are written every time."""
    torch.set_num_threads(THREADS)
    split = load_tweets()
    folder = tweets_dir()
    folder.mkdir(parents=True, exist_ok=True)
    write_items(split.calibrate, folder / "calibrate.jsonl")
    write_items(split.test, folder / "test.jsonl")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for recipe in build_recipes():
            if not (folder / recipe.name).exists():
                _train(recipe, split, progress)
            if not (folder / (recipe.name + SMALL)).exists():
                compress(str(folder / recipe.name), load_recipe(COMPRESSION), folder / (recipe.name + SMALL))
    return split


def tweets_dir() -> Path:
    """Where everything lies."""
    return cache_dir() / "tweets"


def _train(recipe: Recipe, split: TweetSplit, progress: Progress) -> None:
    task = progress.add_task(f"train {recipe.name}", total=None)
    model, tokenizer = train(
        recipe,
        split.train,
        seed=SEED,
        on_step=lambda done, total: progress.update(task, completed=done, total=total),
    )
    with write_folder_whole(tweets_dir() / recipe.name) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def predict_all(split: TweetSplit, *, suffix: str) -> dict[str, Predictions]:
    """Ask the four members whose folders end so."""
    predictions = {}
    for recipe in build_recipes():
        loaded = load_checkpoint(str(tweets_dir() / (recipe.name + suffix)), dtype="float32", device="cpu")
        predictions[recipe.name + suffix] = Predictions(
            calibrate=predict(loaded.model, loaded.tokenizer, split.calibrate),
            test=predict(loaded.model, loaded.tokenizer, split.test),
        )
    return predictions


def report(console: Console, split: TweetSplit) -> None:
    """Print each member's accuracy on the test part and what pooling and stacking the compressed ones gives."""
    calibrate_labels = np.array([tweet.label for tweet in split.calibrate])
    labels = np.array([tweet.label for tweet in split.test])
    whole, small = predict_all(split, suffix=""), predict_all(split, suffix=SMALL)
    table = Table("member", "weights, KiB", "accuracy", title=f"{len(labels)} test tweets")
    for name, one in {**whole, **small}.items():
        num_bytes = (tweets_dir() / name / "model.safetensors").stat().st_size
        table.add_row(name, f"{num_bytes / 1024:.0f}", f"{count_right(one.test, labels).mean():.4f}")
    console.print(table)
    console.print("correlations of the compressed members' errors:", correlate_errors(small, labels).round(2).tolist())
    for rule, pooled in {
        "log pool": pool_logs(small, calibrate_labels),
        "stacking": stack(small, calibrate_labels),
    }.items():
        for kind, members in {"compressed": small, "uncompressed": whole}.items():
            _print_comparison(console, f"{rule} of the compressed", kind, pooled, members=members, labels=labels)


def _print_comparison(
    console: Console, rule: str, kind: str, pooled: np.ndarray, *, members: dict[str, Predictions], labels: Labels
) -> None:
    found = compare(pooled, members, labels)
    console.print(
        f"{rule}: {found.accuracy:.4f}; best {kind} member {found.best_member}: {found.best_accuracy:.4f}; "
        f"exact McNemar p = {found.p_value:.1e}"
    )


if __name__ == "__main__":
    stdout = Console(width=160)
    report(stdout, make_members(stdout))
