"""Worlds that are spoken to: ids, your questions with your reward, JSONL files, and what is wrong with them."""

import json
import re
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium import spaces

from thespis.core import Fault
from thespis.envs.text import Questions, read_jsonl, text_world

ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(30)]


def test_an_id_with_arguments() -> None:
    world = text_world("thespis/Chains-v0", {"steps": 2, "rambles": 0})
    env = world.make()
    text, info = env.reset(seed=5)
    assert text == world.make().reset(seed=5)[0]
    assert len(re.findall("[-+]", text)) == 2
    assert env.step(info["solution"])[1:] == (
        1.0,
        True,
        False,
        {"answer": 1.0, "steps": 1.0, "form": 1.0, "final": info["solution"].split()[-1]},
    )
    assert not world.own


def test_questions_hold_every_tenth_row_out() -> None:
    env = text_world(Questions(ROWS)).make()
    held = {env.reset(seed, held_out=True)[0] for seed in range(200)}
    others = {env.reset(seed)[0] for seed in range(2000)}
    assert held == {"0+1=", "10+1=", "20+1="}
    assert others == {row["prompt"] for row in ROWS} - held


def test_a_function_of_prompt_and_answer_is_the_reward_or_its_parts() -> None:
    env = text_world(Questions(["Say hello."], lambda prompt, answer: len(prompt) - len(answer))).make()
    assert env.reset(0) == ("Say hello.", {})
    assert env.step("hello")[1:] == (5.0, True, False, {})
    env = text_world(lambda: Questions(["a"], lambda prompt, answer: {"short": 0.25, "kind": -1.0})).make()
    env.reset(0)
    assert env.step("x")[1:] == (-0.75, True, False, {"short": 0.25, "kind": -1.0})


def test_a_jsonl_file_is_judged_by_its_answers(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    env = text_world(str(file)).make()
    prompt, info = env.reset(1)
    assert info["solution"] == str(int(prompt[:-3]) + 1)
    assert env.step(f" {info['solution']}\n")[1] == 1.0
    assert env.step("7 7")[1] == 0.0
    assert read_jsonl(file) == ROWS


class Odd(gym.Env):
    observation_space = action_space = spaces.Text(9)

    def __init__(self, result: object = None, first: object = ("a", {})) -> None:
        self.result, self.first = result, first

    def reset(self, *, seed: int | None = None, options: object = None) -> object:
        return self.first

    def step(self, action: str) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (ValueError("no such word"), "Odd: step raised ValueError: no such word"),
        (("", 1.0, True), "Odd: step returned .*5 values"),
        (("", None, True, False, {}), "Odd: the reward of 'x' is None; allowed: a finite number"),
        (("", float("nan"), True, False, {}), "the reward of 'x' is nan"),
        (("", True, True, False, {}), "the reward of 'x' is True"),
        ((3, 1.0, True, False, {}), "Odd: an observation is 3; allowed: text"),
    ],
)  # fmt: skip
def test_what_an_environment_does_wrong_is_told(result: object, says: str) -> None:
    env = text_world(Odd(result)).make()
    env.reset(0)
    with pytest.raises(Fault, match=says):
        env.step("x")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("CartPole-v1", "env CartPole-v1: its observations are Box; an actor that writes needs gymnasium.spaces.Text"),
        ("thespis/Chain-v0", "did you mean thespis/Chains-v0"), (3, "env is 3; it must be an id"),
        ("none.jsonl", "none.jsonl cannot be read"), (lambda: 1 / 0, "env <lambda>: ZeroDivisionError"),
        (lambda: Questions([]), "env <lambda>: there is no question"),
        (lambda: Questions(["a"]), "env <lambda>: row 1 has no text as its 'answer'"),
    ],
)  # fmt: skip
def test_what_is_no_such_environment_is_told(env: object, says: str) -> None:
    with pytest.raises(Fault, match=says):
        text_world(env)


@pytest.mark.parametrize(
    ("text", "says"), [("{\n", "line 1 is not JSON"), ('{"prompt": "a"}\n[1]\n', "line 2 is .*an object"), ("\n", "has no rows")]
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(Fault, match=says):
        read_jsonl(tmp_path / "x.jsonl")
