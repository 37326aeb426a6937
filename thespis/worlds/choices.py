"""Questions with several right options, which earn in parts."""

from __future__ import annotations

import string
import zlib
from typing import Any

import gymnasium as gym
from gymnasium import spaces

__all__ = ["Choices"]

COLOURS, SHAPES = "rgb", "cst"


class Choices(gym.Env[str, str]):
    """Which of these are red? The answer is the letters of all that are, such as ACE.

    Observation: `options` things, each a letter, a colour (r, g, b) and a shape (c, s, t), and what is asked for, a colour or a
    shape: "Arc Bgs Crt Dbc Ers?r". With the chance `inverted` it is asked which are not so: "!r" in place of "?r".
    Action: text, the letters of the options, in any order.
    Reward: the share of right options that were named, but 0 where a wrong one or anything else was; without `soft` 1 where all
    were named, else 0.
    Ends: terminated after one answer.

    `info` has after a step "exact" and "soft", the two rewards, and the text "final", the letters in order. At a reset it has
    "solution", of an author who is wrong about each option with the chance `errors`.

    A seed fixes the task. With options={"held_out": True} a reset gives tasks that it never gives without.
    """

    def __init__(self, options: int = 5, soft: bool = True, inverted: float = 0.5, errors: float = 0.0) -> None:
        if not 2 <= options <= 26:
            raise ValueError(f"options is {options!r}; allowed: from 2 to 26")
        for name, value in (("inverted", inverted), ("errors", errors)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; allowed: from 0 to 1")
        self.options, self.soft, self.inverted, self.errors = options, soft, inverted, errors
        self.observation_space = spaces.Text(4 * options + 1, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.right = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        while True:
            text = self._task()
            if self.right and (zlib.crc32(text.encode()) % 10 == 0) == held_out:
                break
        wrong = self.np_random.random(self.options) < self.errors
        letters = string.ascii_uppercase[: self.options]
        return text, {"solution": "".join(x for x, w in zip(letters, wrong, strict=True) if (x in self.right) != w)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        named = sorted(set(action))
        sound = len(named) == len(action) and set(named) <= set(self.right)
        soft = len(named) / len(self.right) if sound else 0.0
        exact = float(soft == 1)
        return "", soft if self.soft else exact, True, False, {"exact": exact, "soft": soft, "final": "".join(named)}

    def _task(self) -> str:
        pick = self.np_random.integers
        things = [COLOURS[pick(3)] + SHAPES[pick(3)] for _ in range(self.options)]
        asked, inverted = (COLOURS + SHAPES)[pick(6)], bool(self.np_random.random() < self.inverted)
        letters = string.ascii_uppercase[: self.options]
        self.right = "".join(x for x, thing in zip(letters, things, strict=True) if (asked in thing) != inverted)
        return " ".join(x + thing for x, thing in zip(letters, things, strict=True)) + "?!"[inverted] + asked
