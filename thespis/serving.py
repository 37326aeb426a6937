"""A run's model behind an endpoint on this machine alone, as clients of OpenAI's completions speak to it.

GET /v1/models; POST /v1/completions and /v1/chat/completions with JSON: prompt, or messages; and max_tokens, n, seed, and
temperature, which is 0 (the most probable answer) or the run's own. One request is answered after the other.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from thespis import language
from thespis.core import Fault
from thespis.lm import Model

HERE = "127.0.0.1"
LARGEST = 2**20
"""bytes of a request"""
MOST = 64
"""answers to a request"""
FIELDS = {"model", "prompt", "messages", "max_tokens", "n", "seed", "temperature", "stream", "user"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, host: str = HERE, port: int = 8643, which: str = "last"):
        """Loads the model and takes the port; `serve_forever` answers. Fault: `host` is not this machine, the port is taken, or
        the folder is no run of an actor that writes."""
        if host not in (HERE, "localhost"):
            raise Fault(f"host is {host!r}; allowed: {HERE}, this machine alone: there is neither a password nor encryption")
        if not language.is_written(folder):
            raise Fault(f"{folder} is no run of an actor that writes; allowed: thespis serve RUN, with such a run")
        self.run, self.model, self.about = language.writer(folder, which)
        self.folder, self.name, self.one = folder, folder.resolve().name, threading.Lock()
        try:
            super().__init__((HERE, port), Handler)
        except OSError as error:
            raise Fault(f"port is {port}: {error.strerror or error}; give another with --port") from None

    @property
    def address(self) -> str:
        return f"http://{HERE}:{self.server_address[1]}/v1"

    def answer(self, asked: Any, chat: bool) -> dict[str, Any]:
        """What is said to a request. Fault: what is wrong with it."""
        if not isinstance(asked, dict):
            raise Fault("the request is no JSON object")
        if wrong := sorted(set(asked) - FIELDS):
            raise Fault(f"{wrong[0]} is not allowed; allowed: {', '.join(sorted(FIELDS))}")
        if asked.get("stream"):
            raise Fault("stream is true; allowed: false")
        limit = _number(asked, "max_tokens", self.run.answer_tokens, 1, self.model.context - 1)
        count = _number(asked, "n", 1, 1, MOST)
        seed = _number(asked, "seed", None, 0, 2**63 - 1)
        own = self.model.temperature
        warmth = asked.get("temperature", own)
        if isinstance(warmth, bool) or warmth not in (0, own):
            raise Fault(f"temperature is {warmth!r}; allowed: 0, or {own:g}, at which the run was trained")
        prompt, first = _conversation(asked, self.model) if chat else _prompt(asked, self.model)
        rng = torch.Generator()
        if seed is None:
            rng.seed()
        else:
            rng.manual_seed(seed)
        with self.one:
            found = self.model.sample([prompt] * count, limit, rng, warmth == 0, [first] * count)
        choices, said = [], 0
        for i, (tokens, *_) in enumerate(found):
            text, said = self.model.text.decode(tokens), said + len(tokens)
            end = "stop" if tokens[-1] == self.model.text.end else "length"
            what = {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "logprobs": None}
            choices.append({"index": i, **what, "finish_reason": end})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": said, "total_tokens": len(prompt) + said}
        kind = "chat.completion" if chat else "text_completion"
        return {
            "id": f"thespis-{time.time_ns()}", "object": kind, "created": int(time.time()), "model": self.name,
            "choices": choices, "usage": usage,
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30
    """seconds that a client may be silent within a request"""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._from_here():
            if self.path == "/v1/models":
                self._say(200, {"object": "list", "data": [{"id": self.server.name, "object": "model", "owned_by": "thespis"}]})
            else:
                self._fault(404, f"{self.path} is not here; allowed: /v1/models, /v1/completions, /v1/chat/completions")

    def do_POST(self) -> None:
        if not self._from_here():
            return
        length = self.headers.get("Content-Length", "")
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            self._fault(404, f"{self.path} is not here; allowed: /v1/completions, /v1/chat/completions")
        elif self.headers.get_content_type() != "application/json":  # what a page of another site may send unasked is not
            self._fault(415, "Content-Type: allowed: application/json")
        elif not (length.isascii() and length.isdecimal() and len(length) < 10 and int(length) <= LARGEST):
            self._fault(413, f"Content-Length is {length[:20]!r}; allowed: up to {LARGEST:,} bytes")
        else:
            try:
                told = self.server.answer(json.loads(self.rfile.read(int(length))), "chat" in self.path)
            except Fault as fault:
                self._fault(400, str(fault))
            except (ValueError, RecursionError) as error:
                self._fault(400, f"the request is no JSON ({type(error).__name__})")
            else:
                self._say(200, told)

    def _from_here(self) -> bool:
        """Whether it is this machine that is asked for: another name for this address is an attack by a page in a browser."""
        if (self.headers.get("Host") or "").partition(":")[0] in (HERE, "localhost") and not self.headers.get("Origin"):
            return True
        self._fault(403, "Host: allowed: 127.0.0.1 and localhost, and no page of a browser")
        return False

    def _fault(self, code: int, what: str) -> None:
        self.close_connection = True  # what was sent may not have been read
        self._say(code, {"error": {"message": what, "type": "invalid_request_error"}})

    def _say(self, code: int, told: dict[str, Any]) -> None:
        data = json.dumps(told).encode()
        with suppress(ConnectionError):  # it did not wait
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def serve(folder: Path, port: int, host: str = HERE, which: str = "last") -> None:
    """Answers until Ctrl-C. Fault: see Server."""
    with Server(folder, host, port, which) as server:
        print(f"serves   {server.address}  (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _number(asked: dict[str, Any], name: str, default: Any, low: int, high: int) -> Any:
    value = asked.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise Fault(f"{name} is {value!r}; allowed: from {low} to {high:,}")
    return value


def _prompt(asked: dict[str, Any], model: Model) -> tuple[list[int], int]:
    """Tokens of a conversation's first question, and how many stand before the first answer: all."""
    if not isinstance(asked.get("prompt"), str) or "messages" in asked:
        raise Fault("prompt: allowed: one text")
    tokens = model.text.asked(asked["prompt"])
    return tokens, len(tokens)


def _conversation(asked: dict[str, Any], model: Model) -> tuple[list[int], int]:
    """As `_prompt`, of messages: user and assistant in turn, a user's the last."""
    messages = asked.get("messages")
    wanted = ("user", "assistant")
    if not isinstance(messages, list) or len(messages) % 2 == 0 or "prompt" in asked:
        raise Fault("messages: allowed: a list, user and assistant in turn, a user's the last")
    tokens, first = list[int](), None
    for i, message in enumerate(messages):
        said = message if isinstance(message, dict) else {}
        if said.get("role") != wanted[i % 2] or not isinstance(said.get("content"), str):
            raise Fault(f"messages: number {i + 1}: allowed: the role {wanted[i % 2]} here, and its content, a text")
        tokens += model.text.answered(said["content"]) if i % 2 else model.text.asked(said["content"], not tokens)
        first = len(tokens) if first is None else first
    assert first is not None
    return tokens, first
