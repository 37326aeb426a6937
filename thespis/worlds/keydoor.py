"""A dark corridor with a key and a door: thirty turns, and nothing is earned before the last."""

from __future__ import annotations

import string
import zlib
from typing import Any

import gymnasium as gym
from gymnasium import spaces

__all__ = ["KeyDoor"]

ACTIONS = "lrto"


class KeyDoor(gym.Env[str, str]):
    """Find the key, take it, find the door, and open it.

    Observation: where the actor stands and what is there: "3." nothing, "3k" the key, "3d" the door; only at the place itself it
    is seen. The places are 0 to `length` - 1; key, door and actor begin at different ones.
    Action: one letter: l and r go a place left and right, t takes the key, o opens the door. All else does nothing.
    Reward: 1 where the door is opened with the key; else 0.
    Ends: terminated when the door is opened; truncated after `turns` answers.

    `info` has after a step "solved" and "key" (0 or 1: the door is open, the key was taken) and "wrong", the share of answers so
    far that did nothing. At a reset it has "solution", the answers, one a turn, of an author who searches from end to end but
    does something at random with the chance `errors` each turn, and stops after `turns`.

    A seed fixes the task. With options={"held_out": True} a reset gives tasks that it never gives without; tasks are few.
    """

    def __init__(self, length: int = 8, turns: int = 30, errors: float = 0.5) -> None:
        for name, value, allowed, bounds in (
            ("length", length, 4 <= length <= 10, "from 4 to 10"), ("turns", turns, 1 <= turns <= 1_000, "from 1 to 1000"),
            ("errors", errors, 0 <= errors <= 1, "from 0 to 1"),
        ):  # fmt: skip
            if not allowed:
                raise ValueError(f"{name} is {value!r}; allowed: {bounds}")
        self.length, self.turns, self.errors = length, turns, errors
        self.observation_space = spaces.Text(2, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.start = self.key = self.door = self.at = self.done = self.wrong = 0
        self.has = self.open = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        while True:
            self.start, self.key, self.door = (int(i) for i in self.np_random.permutation(self.length)[:3])
            if (zlib.crc32(f"{self.start} {self.key} {self.door}".encode()) % 5 == 0) == held_out:
                break
        self._begin()
        solution = self._solution()
        self._begin()
        return self._seen(), {"solution": solution}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.done += 1
        before = (self.at, self.has, self.open)
        if action in ("l", "r"):
            self.at = min(max(self.at + (1 if action == "r" else -1), 0), self.length - 1)
        elif action == "t":
            self.has = self.has or self.at == self.key
        elif action == "o":
            self.open = self.has and self.at == self.door
        self.wrong += before == (self.at, self.has, self.open)
        info = {"solved": float(self.open), "key": float(self.has), "wrong": self.wrong / self.done}
        return self._seen(), float(self.open), self.open, not self.open and self.done >= self.turns, info

    def _begin(self) -> None:
        self.at, self.done, self.wrong = self.start, 0, 0
        self.has = self.open = False

    def _seen(self) -> str:
        thing = "d" if self.at == self.door else "k" if self.at == self.key and not self.has else "."
        return f"{self.at}{thing}"

    def _solution(self) -> list[str]:
        written, left, door = list[str](), True, -1  # left: which way the search goes; door: where it was seen
        while not self.open and self.done < self.turns:
            door = self.door if self.at == self.door else door
            if self.at == self.key and not self.has:
                action = "t"
            elif self.at == self.door and self.has:
                action = "o"
            elif self.has and door >= 0:
                action = "l" if door < self.at else "r"
            else:
                left = self.at == self.length - 1 or (left and self.at > 0)
                action = "l" if left else "r"
            if self.errors and self.np_random.random() < self.errors:
                action = ACTIONS[int(self.np_random.integers(4))]
            written.append(action)
            self.step(action)
        return written
