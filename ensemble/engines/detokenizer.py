"""From token ids to text, one token at a time, never half a character."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a decoder writes for bytes that are not (yet) a character.
_REPLACEMENT = "\ufffd"
# UTF-8 characters have at most 4 bytes, so after this many tokens the bytes are wrong rather than unfinished.
_MAX_HELD_TOKENS = 8
# Some tokenizers drop the space of a text's first token: a few of the prompt's tokens in front keep it.
_NUM_CONTEXT_TOKENS = 4


class TokenDecoder(Protocol):
    """The part of ``tokenizers.Tokenizer`` that is used here."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:  # noqa: FBT001, FBT002 tokenizers' own signature
        """Give the text of a sequence of tokens."""
        ...


class Detokenizer:
    """The text of one completion, as far as its tokens determine it.

    Decodes a short window of tokens twice, without and with the new ones, and gives the difference; the window moves
    on whenever its text ends with a whole character.
    """

    def __init__(self, decoder: TokenDecoder, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        self._window = list(prompt[-_NUM_CONTEXT_TOKENS:])
        self._num_given = len(self._window)
        self._given_text = decoder.decode(self._window)

    def push(self, token: int) -> str:
        """Take the next token; return the text that became certain, often the token's own."""
        self._window.append(token)
        text = self._decoder.decode(self._window)
        num_held = len(self._window) - self._num_given
        new_text = text[len(self._given_text) :]
        if num_held < _MAX_HELD_TOKENS and (not new_text or new_text.endswith(_REPLACEMENT)):
            return ""
        self._window = self._window[self._num_given :]
        self._num_given = len(self._window)
        self._given_text = self._decoder.decode(self._window)
        return new_text

    def push_all(self, tokens: Sequence[int]) -> str:
        """Take tokens that came at once, for the text that they give one by one, in fewer decodings.

        All but the last few are decoded together where every byte of them belongs to a character.
        """
        sure = tokens[:-_MAX_HELD_TOKENS]
        text = self._decoder.decode([*self._window, *sure])[len(self._given_text) :] if sure else ""
        if _REPLACEMENT in text:
            sure, text = (), ""
        if sure:
            self._window = list(sure[-_NUM_CONTEXT_TOKENS:])
            self._num_given = len(self._window)
            self._given_text = self._decoder.decode(self._window)
        return text + "".join(map(self.push, tokens[len(sure) :]))

    def flush(self) -> str:
        """Return the rest at the completion's end, less the bytes of a character that was cut."""
        text = self._decoder.decode(self._window)[len(self._given_text) :]
        return text.rstrip(_REPLACEMENT)
