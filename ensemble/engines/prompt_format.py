"""How a prompt becomes the text that a model reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PLACEHOLDER = "{prompt}"


def _has_one_placeholder(template: str) -> str:
    if template.count(PLACEHOLDER) != 1:
        raise ValueError(f"must contain {PLACEHOLDER} exactly once; every other brace is literal")
    return template


ScoringRuleName = Literal["mean_logprob", "sum_logprob", "pmi"]
Template = Annotated[str, AfterValidator(_has_one_placeholder)]


class PromptFormat(BaseModel):
    """How a member words a prompt; members that share a checkpoint but not a format err differently.

    Scoring reads ``score_template`` as plain text, chat or not: the choices continue that text. Its rules, with the sum
    over a choice's tokens of their log-probabilities after the scored prompt S = log p(choice | prompt):

    - ``mean_logprob``: S divided by the number of tokens, so that long choices are not punished for being long.
    - ``sum_logprob``: S.
    - ``pmi``: S - log p(choice | pmi_template), both sums and not divided by the length (domain-conditional pointwise
      mutual information: Holtzman et al. 2021, arXiv:2104.08315). What a choice has of its own, by being a frequent
      text, no longer counts.
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
    scoring: ScoringRuleName = Field(default="mean_logprob", description="what a choice's score is")
    pmi_template: str = Field(
        default="Answer:", min_length=1, description="text that says nothing of the question; pmi measures against it"
    )

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
