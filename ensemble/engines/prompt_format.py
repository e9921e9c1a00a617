"""How a prompt becomes the text that a model reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PLACEHOLDER = "{prompt}"


def _has_one_placeholder(template: str) -> str:
    if template.count(PLACEHOLDER) != 1:
        raise ValueError(f"must contain {PLACEHOLDER} exactly once; every other brace is literal")
    return template


Template = Annotated[str, AfterValidator(_has_one_placeholder)]


class PromptFormat(BaseModel):
    """How a member words a prompt; members that share a checkpoint but not a format err differently.

    Scoring reads ``score_template`` as plain text, chat or not: the choices continue that text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: bool = Field(default=False, description="completions go through the tokenizer's chat template")
    system: str = Field(default="", description="the chat's system message; empty sends none")
    generate_template: Template = Field(
        default=PLACEHOLDER, description="text (or the chat's user message) to complete"
    )
    score_template: Template = Field(
        default="Question: {prompt}\nAnswer:", description="text that the choices continue"
    )
    choice_prefix: str = Field(default=" ", description="put before each choice when scoring")

    def generation_text(self, prompt: str) -> str:
        """Word a prompt for a completion."""
        # Not str.format: a caller's braces are text.
        return self.generate_template.replace(PLACEHOLDER, prompt)

    def chat_messages(self, prompt: str) -> list[dict[str, str]]:
        """Word a prompt as the messages of a chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.generation_text(prompt)}]

    def scoring_text(self, prompt: str) -> str:
        """Word a prompt whose choices are scored."""
        return self.score_template.replace(PLACEHOLDER, prompt)

    def choice_text(self, choice: str) -> str:
        """Word a choice as the continuation of the scoring text."""
        return self.choice_prefix + choice
