"""A run's model behind an endpoint: what it says is what the model says; it is for this machine alone."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import thespis
from thespis import language
from thespis.core import Fault
from thespis.serving import LARGEST, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = thespis.train(
        "sft", env="thespis/Chains-v0", out=tmp_path_factory.mktemp("serve") / "run", steps=16, batch_size=8, answer_tokens=5,
        model="tiny:dim=16,layers=1,heads=2,context=64", eval_episodes=0, panel=False, quiet=True, sinks=(),
    )  # fmt: skip
    with Server(run.path, port=0) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def ask(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request("GET" if data is None else "POST", path, data, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_it_says_what_the_model_says(server: Server) -> None:
    _, model, _ = language.writer(server.folder)
    prompt = model.text.asked("7+5=")
    status, told = ask(server, "/v1/completions", {"prompt": "7+5=", "max_tokens": 6, "n": 3, "seed": 4, "model": "any"})
    wanted = model.sample([prompt] * 3, 6, torch.Generator().manual_seed(4))
    assert status == 200
    assert [c["text"] for c in told["choices"]] == [model.text.decode(t) for t, _ in wanted]
    assert [c["finish_reason"] for c in told["choices"]] == ["stop" if t[-1] == model.text.end else "length" for t, _ in wanted]
    assert told["usage"]["completion_tokens"] == sum(len(t) for t, _ in wanted)
    assert (told["object"], told["model"], told["usage"]["prompt_tokens"]) == ("text_completion", "run", len(prompt))
    talk = [("user", "7+5="), ("assistant", "12"), ("user", "so?")]
    messages = [{"role": r, "content": c} for r, c in talk]
    status, told = ask(server, "/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 4})
    tokens = [*prompt, *model.text.answered("12"), *model.text.asked("so?", False)]
    ((best, _),) = model.sample([tokens], 4, greedy=True)
    assert told["choices"][0]["message"] == {"role": "assistant", "content": model.text.decode(best)}
    assert ask(server, "/v1/models")[1]["data"][0]["id"] == "run"
    assert ask(server, "/v1/completions", {"prompt": "1+1="})[1]["usage"]["completion_tokens"] <= 5, "the run's answer_tokens"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "prompt: allowed: one text"), ({"prompt": ["a"]}, "prompt: allowed"), ({"prompt": "a", "n": 65}, "n is 65; allowed"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is True"), ({"prompt": "a", "temperature": 0.5}, "allowed: 0, or 1"),
        ({"prompt": "a", "stream": True}, "stream is true"), ({"prompt": "a", "logit_bias": {}}, "logit_bias is not allowed"),
        ({"prompt": "x" * 70}, "a prompt has 71 tokens"), ([], "no JSON object"), (b"{", "no JSON"), (b"[" * 9_999, "no JSON"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(server: Server, body: Any, says: str) -> None:
    status, told = ask(server, "/v1/completions", body)
    assert status == 400
    assert says in told["error"]["message"]
    assert "\n" not in told["error"]["message"]


def test_wrong_messages_are_named(server: Server) -> None:
    for messages, says in (
        ([], "a list"), ([{"role": "system", "content": "x"}], "number 1: allowed: the role user"),
        ([{"role": "user"}], "number 1"), ("hello", "a list"),
    ):  # fmt: skip
        status, told = ask(server, "/v1/chat/completions", {"messages": messages})
        assert (status, says in told["error"]["message"]) == (400, True)


def test_it_is_for_this_machine_alone(server: Server, tmp_path: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    asked = {"prompt": "1+1="}
    assert ask(server, "/v1/completions", asked, Host="evil.example")[0] == 403
    assert ask(server, "/v1/models", None, Host="evil.example:8643")[0] == 403
    assert ask(server, "/v1/completions", asked, Origin="https://evil.example")[0] == 403
    assert ask(server, "/v1/completions", asked, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(server, "/v1/completions", b"{}", **{"Content-Length": str(LARGEST + 1)})[0] == 413
    assert ask(server, "/v1/completions", b"{}", **{"Content-Length": "9" * 5_000})[0] == 413
    assert ask(server, "/v1/else", asked)[0] == 404
    assert ask(server, "/../config.json")[0] == 404
    for host in ("0.0.0.0", "::", "192.168.0.1"):
        with pytest.raises(Fault, match=r"allowed: 127\.0\.0\.1, this machine alone"):
            Server(server.folder, host)
    with pytest.raises(Fault, match=r"port is .*; give another"):
        Server(server.folder, port=server.server_address[1])
    with pytest.raises(Fault, match="no run of an actor that writes"):
        Server(tmp_path)
