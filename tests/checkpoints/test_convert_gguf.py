"""What a GGUF file says beside its weights, in the checkpoint that it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ensemble.checkpoints import resolve_checkpoint
from ensemble.checkpoints.tokenizer import find_bos, load_tokenizer
from ensemble.engines.prompt_format import PromptFormat
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.generation import GenerationRequest
from tests.checkpoints.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_a_converted_tokenizer_puts_bos_where_the_gguf_says_so(tmp_path: Path, add_bos: bool | None) -> None:  # noqa: FBT001
    file = write_tiny_gguf(tmp_path / "tiny.gguf", add_bos=add_bos)

    tokenizer = load_tokenizer(resolve_checkpoint(str(file), cache_dir=tmp_path / "cache"))

    assert find_bos(tokenizer) == ((1,) if add_bos else ())
    encoder = TokenEncoder(tokenizer, PromptFormat(chat=False), add_bos=None, vocab_size=len(tokenizer), member="m")
    served = encoder.encode_generation(GenerationRequest(request_id="", prompt="the"), max_context=64)
    assert served == [*find_bos(tokenizer), *tokenizer("the", add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_a_sentence_piece_tokenizer_puts_bos_unless_the_gguf_says_otherwise(
    tmp_path: Path,
    add_bos: bool | None,  # noqa: FBT001
) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", add_bos=add_bos, is_sentence_piece=True)

    tokenizer = load_tokenizer(resolve_checkpoint(str(file), cache_dir=tmp_path / "cache"))

    assert find_bos(tokenizer) == (() if add_bos is False else (1,))
