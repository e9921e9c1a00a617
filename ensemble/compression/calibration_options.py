"""What a recipe may say about the text that its steps measure and learn from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

WINDOW_TOKENS = 256
MAX_WINDOWS = 128
"""More text than this changes the order of the layers no further, and only takes time."""


class CalibrationOptions(BaseModel):
    """How many windows of the calibration text steps get, of what length, and how they are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_windows: int = Field(
        default=MAX_WINDOWS, ge=1, le=65536, description="at most so many windows of the text; a shorter text has fewer"
    )
    window_tokens: int = Field(default=WINDOW_TOKENS, ge=16, le=32768, description="tokens in a window")
    seed: int = Field(default=0, ge=0, lt=2**31, description="decides which windows, and their order")
    own_tokens: int = Field(
        default=0,
        ge=0,
        le=2**24,
        description="tokens of text that the original model writes itself, drawn by the seed, beside the given text",
    )

    @property
    def num_own_windows(self) -> int:
        """How many windows the model writes: the last one whole, too."""
        return -(-self.own_tokens // self.window_tokens)
