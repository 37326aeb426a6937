"""Text to tokens and back, a token a byte of UTF-8: of plain English a token a character."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from thespis.fault import Fault


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

    def written(self, row: Mapping[str, Any]) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation, and which of them the actor is to write. `row` has "prompt" and "answer", or "messages",
        each with "role" and "content": the assistant's are the actor's. Fault: neither."""
        if isinstance(row.get("prompt"), str) and isinstance(row.get("answer"), str):
            said = [(False, row["prompt"]), (True, row["answer"])]
        elif isinstance(messages := row.get("messages"), list) and messages and all(map(_is_message, messages)):
            said = [(m["role"] == "assistant", m["content"]) for m in messages]
        else:
            raise Fault(f"a row has {', '.join(map(str, row)) or 'nothing'}; allowed: texts prompt and answer, or messages")
        if not any(mine for mine, _ in said):
            raise Fault("a row has no message of the assistant's: there is nothing to learn in it")
        tokens, mask = list[int](), list[bool]()
        for mine, text in said:
            more = self.answered(text) if mine else self.asked(text)
            tokens += more
            mask += [mine] * len(more)
        return tokens, mask


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))
