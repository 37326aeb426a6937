"""Text to tokens and back, a token a byte of UTF-8: of plain English a token a character."""

from __future__ import annotations

from collections.abc import Iterable


class Text:
    """256 bytes, the end of an answer, and the sign after which the actor speaks."""

    size = 258
    end = 256
    turn = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, tokens: Iterable[int]) -> str:
        """What was written; a wrong byte is shown as the replacement character."""
        return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")

    def asked(self, text: str) -> list[int]:
        """An observation, and the sign that it is the actor's turn."""
        return [*self.encode(text), self.turn]

    def answered(self, text: str) -> list[int]:
        """An answer, and its end."""
        return [*self.encode(text), self.end]
