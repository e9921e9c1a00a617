"""A running classifier engine, and what plain transformers says to the same text."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ensemble.engines.classifier import ClassifierEngine
from ensemble.engines.config import ClassifierEngineConfig
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ChoiceScores, ScoringRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHOICES = ("positive", "NEUTRAL ", "negative")
LABEL_BY_CHOICE = (2, 1, 0)
TEXTS = ("w1", "w4 w5 w6", " ".join(f"w{n}" for n in range(40, 90)), "w9 w8", "w2 w2 w2 w2 w2")


@asynccontextmanager
async def running(
    checkpoint: str, prompt_format: PromptFormat | None = None, **options: object
) -> AsyncIterator[ClassifierEngine]:
    config = ClassifierEngineConfig.model_validate({"device": "cpu", "threads": 1, **options})
    engine = ClassifierEngine(config, checkpoint=checkpoint, member="m", prompt_format=prompt_format or PromptFormat())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def ask(text: str, choices: tuple[str, ...] = CHOICES) -> ScoringRequest:
    return ScoringRequest(request_id="s", prompt=text, choices=choices)


async def ask_together(engine: ClassifierEngine, texts: tuple[str, ...]) -> list[ChoiceScores]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(engine.score(ask(text))) for text in texts]
    return [task.result() for task in tasks]


def score_plainly(checkpoint: str, text: str, labels: tuple[int, ...] = LABEL_BY_CHOICE) -> list[float]:
    model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    return list(logits[list(labels)].log_softmax(-1).tolist())
