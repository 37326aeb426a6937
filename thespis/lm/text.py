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

    def asked(self, text: str, first: bool = True) -> list[int]:
        """An observation, and the sign that it is the actor's turn. `first`: nothing stands before it."""
        return [*self.encode(text), self.turn]

    def answered(self, text: str) -> list[int]:
        """An answer, and its end."""
        return [*self.encode(text), self.end]

    def pair(self, row: Mapping[str, Any]) -> list[tuple[list[int], list[bool]]]:
        """As `written`, the answer that was chosen and the one that was rejected."""
        return [self.written({"prompt": row["prompt"], "answer": row[kind]}) for kind in ("chosen", "rejected")]

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
            more = self.answered(text) if mine else self.asked(text, not tokens)
            tokens += more
            mask += [mine] * len(more)
        return tokens, mask


class Tokens(Text):
    """The tokens and the chat template of a tokenizer of transformers; without a template an observation stands by itself."""

    def __init__(self, tokenizer: Any) -> None:
        """Fault: a tokenizer with no end, or a template that cannot be rendered or leaves out what the user says."""
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token_id
        if self.end is None:
            raise Fault("model: its tokenizer has no end of an answer (eos_token)")
        self.around: dict[bool, tuple[list[int], list[int]]] = {True: ([], []), False: ([], [])}
        if tokenizer.chat_template:
            self.around = {first: self._around(first) for first in (True, False)}

    def _around(self, first: bool) -> tuple[list[int], list[int]]:
        """The template's tokens before and after an observation: at the start of a conversation, or after an answer."""
        before = [] if first else [{"role": "user", "content": "<-u->"}, {"role": "assistant", "content": "<-a->"}]
        talk = [*before, {"role": "user", "content": "<-x->"}]
        try:
            text = self.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, of whoever made it
            raise Fault(f"model: its chat template fails ({type(error).__name__}: {' '.join(str(error).split())})") from None
        head, found, tail = text.rpartition("<-x->")
        if not first:
            head = head.partition("<-a->")[2].removeprefix(self.tokenizer.eos_token)
        if not found:
            raise Fault("model: its chat template leaves out what the user says")
        return self._ids(head), self._ids(tail)

    def _ids(self, text: str, **how: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **how)["input_ids"]) if text else []

    def encode(self, text: str) -> list[int]:
        return self._ids(text, split_special_tokens=True)  # what only looks like a sign of the template's is none

    def decode(self, tokens: Iterable[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def asked(self, text: str, first: bool = True) -> list[int]:
        head, tail = self.around[first]
        return [*head, *self.encode(text), *tail]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))
