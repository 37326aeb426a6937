"""Environments that are spoken to: Gymnasium with `Text` spaces, your questions with a reward of your own, or a JSONL file."""

from __future__ import annotations

import copy
import inspect
import json
import math
import numbers
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from thespis.core import Fault
from thespis.envs import making, reasoning
from thespis.envs.flat import describe_error
from thespis.turns import TextSpec

__all__ = ["Questions", "TextEnv", "TextWorld", "is_reward", "read_jsonl", "text_world", "write_jsonl"]

Reward = Callable[[str, str], float | Mapping[str, float]]
"""(prompt, answer) -> reward, or its parts by name, whose sum is the reward"""
LONGEST = 1_000_000
"""characters of an observation or an answer"""


class Questions(gym.Env[str, str]):
    """Questions of one step, each judged by a function of the prompt and the answer.

    `rows` are prompts, or mappings with "prompt" and perhaps "answer", which is then the solution that a supervised start learns
    from. Without `reward` an answer earns 1 where it is the row's "answer", white space around it apart. A seed fixes the
    question. Of ten rows or more every tenth, from the first on, is held out: a reset gives it only with
    options={"held_out": True}. ValueError: no rows, or one that is not as said here.
    """

    def __init__(self, rows: Sequence[str | Mapping[str, str]], reward: Reward | None = None) -> None:
        self.rows = [{"prompt": r} if isinstance(r, str) else dict(r) for r in rows]
        wanted = ("prompt",) if reward else ("prompt", "answer")
        for i, row in enumerate(self.rows):
            if missing := [name for name in wanted if not isinstance(row.get(name), str) or not row[name]]:
                raise ValueError(f"row {i + 1} has no text as its {missing[0]!r}")
        if not self.rows:
            raise ValueError("there is no question")
        self.reward = reward
        few = len(self.rows) < 10
        self.split = {held: [r for i, r in enumerate(self.rows) if few or (i % 10 == 0) == held] for held in (False, True)}
        self.observation_space = spaces.Text(LONGEST, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(LONGEST, min_length=0, charset=string.printable)
        self.row: dict[str, str] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        rows = self.split[bool((options or {}).get("held_out"))]
        self.row = rows[int(self.np_random.integers(len(rows)))]
        return self.row["prompt"], {"solution": self.row["answer"]} if "answer" in self.row else {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.reward is None:
            return "", float(action.strip() == self.row["answer"].strip()), True, False, {}
        told = self.reward(self.row["prompt"], action)
        if isinstance(told, Mapping) and not told:
            raise ValueError("the reward has no parts")
        parts = dict(told) if isinstance(told, Mapping) else {}
        return "", sum(parts.values()) if isinstance(told, Mapping) else told, True, False, parts


def is_reward(env: Any) -> bool:
    """Whether it is a function (prompt, answer) -> reward, and no maker of environments, which wants no arguments."""
    if isinstance(env, type) or not callable(env):
        return False
    try:
        wanted = inspect.signature(env).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in wanted) == 2


@dataclass(frozen=True)
class TextWorld:
    """A kind of environment that is spoken to, and how to make one."""

    name: str
    make: Callable[[], TextEnv]
    spec: TextSpec
    own: bool = False
    """whether it is the user's own, which no id names"""


class TextEnv:
    """One of them, with all that it says checked."""

    def __init__(self, env: gym.Env[str, str], name: str) -> None:
        self.env, self.name = env, name

    def reset(self, seed: int, held_out: bool = False) -> tuple[str, dict[str, Any]]:
        """Its first observation and info. Fault: it raises, or its observation is no text."""
        text, info = self._call("reset", lambda: self.env.reset(seed=seed, options={"held_out": held_out}))
        return self._text(text), dict(info)

    def step(self, answer: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, the numbers of its info and its text "final", the final answer). Fault: it
        raises, or what it returns is not that; a reward that is no finite number."""
        text, reward, terminated, truncated, info = self._call("step", lambda: self.env.step(answer))
        if isinstance(reward, bool) or not isinstance(reward, numbers.Real) or not math.isfinite(reward):
            raise Fault(f"{self.name}: the reward of {_short(answer)} is {reward!r}; allowed: a finite number")
        found: dict[str, Any] = {
            str(k): float(v) for k, v in dict(info).items() if isinstance(v, numbers.Real) and math.isfinite(v)
        }
        if isinstance(final := info.get("final"), str):
            found["final"] = final
        return self._text(text), float(reward), bool(terminated), bool(truncated), found

    def close(self) -> None:
        self.env.close()

    def _call(self, what: str, function: Callable[[], Any]) -> Any:
        try:
            result = function()
        except Fault:
            raise
        except Exception as error:
            raise Fault(f"{self.name}: {what} raised {describe_error(error)}") from error
        wanted = {"reset": 2, "step": 5}[what]
        if not isinstance(result, tuple) or len(result) != wanted or not isinstance(result[-1], Mapping):
            raise Fault(f"{self.name}: {what} returned {_short(str(result))}; allowed: {wanted} values, the last a dictionary")
        return result

    def _text(self, text: Any) -> str:
        if not isinstance(text, str):
            raise Fault(f"{self.name}: an observation is {text!r}; allowed: text")
        return text


def text_world(env: Any, args: Mapping[str, Any] | None = None) -> TextWorld:
    """The TextWorld of an id, of reasoning_gym/NAME, of a JSONL file whose rows have "prompt" and "answer" (FILE.jsonl, or
    jsonl:FILE whatever its name), of a callable that returns an environment, or of an environment, of which copies are made.
    Fault: none of these, or spaces that are not `Text`."""
    given, args = env, dict(args or {})
    if isinstance(env, str) and (env.endswith(".jsonl") or env.startswith("jsonl:")):
        rows = read_jsonl(env.removeprefix("jsonl:"))
        given = _named(f"env {env}", lambda: Questions(rows))
    if isinstance(given, gym.Env):
        name, build = (env if isinstance(env, str) else type(given.unwrapped).__name__), lambda: copy.deepcopy(given)
    elif isinstance(given, str) and given.startswith(reasoning.PREFIX):
        name, build = given, lambda: reasoning.Reasoning(given.removeprefix(reasoning.PREFIX), **args)
    elif isinstance(given, str):
        name, build = given, making._from_id(given, args)
    elif callable(given):
        name, build = getattr(given, "__name__", "env"), lambda: given(**args)
    else:
        raise Fault(
            f"env is {given!r}; it must be an id such as 'thespis/Chains-v0', a .jsonl file, a callable or a gymnasium.Env"
        )

    def make() -> TextEnv:
        return TextEnv(_named(f"env {name}", build), name)

    first = make()
    for kind in ("observation", "action"):
        space = getattr(first.env, f"{kind}_space", None)
        if not isinstance(space, spaces.Text):
            raise Fault(f"env {name}: its {kind}s are {type(space).__name__}; an actor that writes needs gymnasium.spaces.Text")
    limit = getattr(first.env.spec, "max_episode_steps", None)
    first.close()
    return TextWorld(name, make, TextSpec(limit), not isinstance(env, str))


def read_jsonl(file: str | Path) -> list[dict[str, Any]]:
    """Its rows, each a JSON object. Fault: no such file, or a line that is none, by its number."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{file} cannot be read: {error}") from None
    rows = []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Fault(f"{file} line {i} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise Fault(f"{file} line {i} is {_short(str(row))}; allowed: an object such as {{'prompt': ..., 'answer': ...}}")
        rows.append(row)
    if not rows:
        raise Fault(f"{file} has no rows")
    return rows


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A row a line, as `read_jsonl` takes them."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _named(what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Fault:
        raise
    except Exception as error:
        raise Fault(f"{what}: {describe_error(error) if not isinstance(error, ValueError) else error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
