"""From prompts and choices to token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer

from ensemble.errors import CheckpointError, ConfigError, MemberRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerFast

    from ensemble.engines.prompt_format import PromptFormat
    from ensemble.generation import GenerationRequest, ScoringRequest

_CALLERS_TEXT = "\ue000caller\ue000"
"""Stands for the caller's text in the operator's wording; of Unicode's private use, so that no wording contains it."""


class TokenEncoder:
    """Words requests by the member's prompt format and encodes them with its tokenizer.

    ``add_bos`` None does what the tokenizer does; True puts the BOS token first exactly once, False leaves it out.
    ``vocab_size`` counts the rows of the input embedding: a tokenizer may have tokens beyond it. Special tokens are
    control tokens where the format or the chat template writes them, and plain text where the caller does.

    Raises:
        CheckpointError: the format asks for a chat and the tokenizer has no chat template.
        ConfigError: a BOS token is asked for and the tokenizer has none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        prompt_format: PromptFormat,
        *,
        add_bos: bool | None,
        vocab_size: int,
        member: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._format = prompt_format
        self._add_bos = add_bos
        self._vocab_size = vocab_size
        self._member = member
        if prompt_format.chat and not tokenizer.chat_template:
            raise CheckpointError(
                "prompt_format.chat", "the checkpoint's tokenizer has no chat template", "set it to false"
            )
        if add_bos and tokenizer.bos_token_id is None:
            raise ConfigError("engine.add_bos", "the checkpoint's tokenizer has no BOS token", "leave it unset")

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer that decodes."""
        return self._tokenizer.backend_tokenizer

    def encode_generation(self, request: GenerationRequest, *, max_context: int) -> list[int]:
        """Give the prompt's tokens.

        Raises:
            MemberRefusedError: there are none, the model lacks one, or no place is left for a completion.
        """
        if request.parameters.max_tokens < 1:
            raise MemberRefusedError(self._member, f"max_tokens is {request.parameters.max_tokens}; ask for 1 or more")
        if self._format.chat:
            # A template writes the special tokens itself.
            tokens = self._encode_prompt(self._chat_text, request.prompt, add_special_tokens=False)
        else:
            tokens = self._encode_prompt(self._format.generation_text, request.prompt, add_special_tokens=True)
        self._check_length(len(tokens) + 1, max_context)
        return tokens

    def encode_scoring(
        self, request: ScoringRequest, *, max_context: int
    ) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
        """Give the prompt's tokens and each choice's.

        Raises:
            MemberRefusedError: the prompt, the choices or one choice has no tokens or one that the model lacks, or
                they are too long.
        """
        prompt = self._encode_prompt(self._format.scoring_text, request.prompt, add_special_tokens=True)
        choices = tuple(tuple(self._encode(self._format.choice_text, choice)) for choice in request.choices)
        if not choices or not all(choices):
            raise MemberRefusedError(self._member, "a choice has no tokens, or there are no choices")
        for choice in choices:
            self._check_known(choice)
        self._check_length(len(prompt) + max(len(choice) for choice in choices), max_context)
        return prompt, choices

    def encode_pmi_prompt(self) -> tuple[int, ...]:
        """Give the tokens of the text that ``pmi`` measures choices against.

        Raises:
            MemberRefusedError: there are none, or the model lacks one.
        """
        return tuple(self._encode_prompt(lambda _: self._format.pmi_template, "", add_special_tokens=True))

    def encode_texts(self, texts: Sequence[str], *, max_context: int) -> tuple[tuple[int, ...], ...]:
        """Give the tokens of texts to embed, which no template words.

        Raises:
            MemberRefusedError: there is no text, or one has no tokens, a token that the model lacks, or too many.
        """
        if not texts or not all(text.strip() for text in texts):
            raise MemberRefusedError(self._member, "a text to embed is empty, or there are no texts")
        encoded = tuple(tuple(self._encode_prompt(str, text, add_special_tokens=True)) for text in texts)
        self._check_length(max(map(len, encoded)), max_context)
        return encoded

    def _chat_text(self, prompt: str) -> str:
        messages = self._format.chat_messages(prompt)
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _encode_prompt(self, word: Callable[[str], str], prompt: str, *, add_special_tokens: bool) -> list[int]:
        bos = self._tokenizer.bos_token_id
        tokens = self._encode(word, prompt, add_special_tokens=add_special_tokens and self._add_bos is None)
        if self._add_bos is not None:
            while tokens and tokens[0] == bos:
                del tokens[0]
        if self._add_bos:
            tokens.insert(0, bos)
        if not tokens:
            raise MemberRefusedError(self._member, "the prompt has no tokens")
        self._check_known(tokens)
        return tokens

    def _encode(self, word: Callable[[str], str], text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Encode the caller's text as worded; in parts only where it would make control tokens of its own."""
        # A chat template may trim what it is given, so the space around the text goes through it.
        core = text.strip()
        plain = self._encode_plainly(core)
        if plain.ids == self._encode_part(core).ids:
            whole: list[int] = self.backend.encode(word(text), add_special_tokens=add_special_tokens).ids
            return whole
        first, *others = word(text.replace(core, _CALLERS_TEXT)).split(_CALLERS_TEXT)
        parts = [self._encode_part(first)]
        for part in others:
            parts += [plain, self._encode_part(part)]
        tokens: list[int] = self.backend.post_process(Encoding.merge(parts), add_special_tokens=add_special_tokens).ids
        return tokens

    def _encode_part(self, text: str) -> Encoding:
        return self.backend.encode(text, add_special_tokens=False)

    def _encode_plainly(self, text: str) -> Encoding:
        self.backend.encode_special_tokens = True  # As plain text, that is.
        try:
            return self._encode_part(text)
        finally:
            self.backend.encode_special_tokens = False

    def _check_known(self, tokens: Sequence[int]) -> None:
        beyond = max(tokens)
        if beyond >= self._vocab_size:
            text = self._tokenizer.convert_ids_to_tokens(beyond)
            raise MemberRefusedError(
                self._member, f"the model has {self._vocab_size} tokens and lacks number {beyond}, {text!r}"
            )

    def _check_length(self, num_tokens: int, max_context: int) -> None:
        if num_tokens > max_context:
            raise MemberRefusedError(
                self._member, f"{num_tokens} tokens are needed at least and the context holds {max_context}"
            )
