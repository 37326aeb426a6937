"""A chain of sums, to be worked out step by step: every step of an answer can be checked."""

from __future__ import annotations

import string
import zlib
from typing import Any

import gymnasium as gym
from gymnasium import spaces

__all__ = ["Chains"]


class Chains(gym.Env[str, str]):
    """What is 7+5-3? The answer is the running results, one after the other: 12 9.

    Observation: a chain of `steps` additions and subtractions of numbers from 1 to `largest`, such as "7+5-3="; no running
    result is below 0 or above 99. With `shortest` above 0 a chain has from `shortest` to `steps` of them, each as often.
    Action: text. The numbers in it, apart by spaces, are the running results.
    Reward: 1 where the last number is the chain's result; or, with `partial` above 0, 1 - `partial` for that and `partial` times
    the share of running results that stand at their places. With a `mark` the running results stand before it, and the
    answer behind it: "12 9=9".
    Ends: terminated after one answer.

    `info` has the parts of the reward after a step: "answer" (0 or 1), "steps" (the share of right running results) and "form"
    (1 where there are as many numbers as steps and nothing else), and the text "final", the last number, empty where there is
    none. At a reset it has "solution", the running results as an author
    writes them who is not perfect. With the chance `rambles` one more number follows, a wrong one, so that the answer earns
    nothing. At each step, with the chance `errors`, the result is wrong by 1, 2 or 3, and what follows goes on from there;
    "first_error" is that step's number, from 0 on, and -1 without one.

    A seed fixes the task. With options={"held_out": True} a reset gives tasks that it never gives without.
    """

    def __init__(
        self, steps: int = 2, largest: int = 9, errors: float = 0.0, rambles: float = 0.5, partial: float = 0.0,
        shortest: int = 0, mark: str = "",
    ) -> None:  # fmt: skip
        for name, value, allowed in (
            ("steps", steps, 1 <= steps <= 100), ("largest", largest, 1 <= largest <= 50),
            ("errors", errors, 0 <= errors <= 1), ("rambles", rambles, 0 <= rambles <= 1),
            ("partial", partial, 0 <= partial <= 1), ("shortest", shortest, 0 <= shortest <= steps),
        ):  # fmt: skip
            if not allowed:
                bounds = {"steps": "from 1 to 100", "largest": "from 1 to 50", "shortest": f"from 1 to {steps}"}.get(
                    name, "from 0 to 1"
                )
                raise ValueError(f"{name} is {value!r}; allowed: {bounds}")
        self.steps, self.largest, self.errors, self.rambles, self.partial = steps, largest, errors, rambles, partial
        self.shortest, self.mark = shortest or steps, mark
        self.observation_space = spaces.Text(6 * (steps + 1), min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.results: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        while (zlib.crc32((text := self._task()).encode()) % 10 == 0) != held_out:
            pass
        written, first = self._solution()
        ending = f"{self.mark}{written[-1]}" if self.mark else ""
        return text, {"solution": " ".join(map(str, written)) + ending, "first_error": first}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        thought, _, last = action.rpartition(self.mark) if self.mark else (action, "", action.split(" ")[-1])
        words = thought.split(" ")
        *found, said = [int(w) if w.isascii() and w.isdecimal() and len(w) < 5 else None for w in [*words, last]]
        right = sum(a == b for a, b in zip(found, self.results, strict=False)) / len(self.results)
        answer = float(said == self.results[-1])
        form = float(len(words) == len(self.results) and None not in found)
        reward = (1 - self.partial) * answer + self.partial * right
        final = "" if said is None else str(said)
        return "", reward, True, False, {"answer": answer, "steps": right, "form": form, "final": final}

    def _task(self) -> str:
        self.results, self.changes = [], []
        value = int(self.np_random.integers(1, self.largest + 1))
        text, steps = str(value), self.steps
        if self.shortest < steps:
            steps = int(self.np_random.integers(self.shortest, steps + 1))
        for _ in range(steps):
            by, plus = int(self.np_random.integers(1, self.largest + 1)), bool(self.np_random.integers(2))
            if value - by < 0 or value + by > 99:
                plus = value - by < 0
            value += by if plus else -by
            text += f"{'+' if plus else '-'}{by}"
            self.changes.append(by if plus else -by)
            self.results.append(value)
        return text + "="

    def _solution(self) -> tuple[list[int], int]:
        value, written, first = self.results[0] - self.changes[0], [], -1
        for i, change in enumerate(self.changes):
            value += change
            if self.errors and self.np_random.random() < self.errors:
                value = abs(value + int(self.np_random.choice([-3, -2, -1, 1, 2, 3])))
                first = i if first < 0 and value != self.results[i] else first
            written.append(value)
        if self.rambles and self.np_random.random() < self.rambles:
            written.append((value + int(self.np_random.integers(1, 10))) % 100)
        return written, first
