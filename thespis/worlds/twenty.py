"""Twenty questions over objects with binary attributes, and an oracle that never errs."""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["Twenty"]

ATTRIBUTES = 10
LOWER = string.ascii_lowercase
LETTERS = "bdfgklmn", "aeiouyrw", "stvz"
"""of a name: each letter of the first two tells three attributes, of the third up to two"""


class Twenty(gym.Env[str, str]):
    """Which of `objects` things is it? Ask for attributes, and name the thing.

    Every object has ten binary attributes, the same in every episode. Those that tell all objects apart, 6 of 64 and 7 of 128,
    are spelled by its name, such as "ka". The others are rare: one object in eight has them, so asking for one tells little.
    Observation: "?" at first; then the letter that was asked for, a capital where the object has the attribute; "-" after a wrong
    guess, "+" after a right one, "." where the answer was neither a question nor a name.
    Action: one letter, a to j, asks for the attribute of that number; a name guesses: two letters, or three where there are
    more than 64 objects. All else is a turn lost.
    Reward: -1 a turn; 0 where the object is named.
    Ends: terminated when the object is named, and after `turns` answers, when the game is lost.

    The best return is about -log2(objects). `info` has after a step "solved" (0 or 1), "left", how many objects the answers leave
    open, and "bits", what the last question told: log2 of how many times fewer they are than before it. At a reset it has
    "solution", the turns of a player who asks for an attribute not asked for yet, or with the chance `errors` for any, and names
    one of the objects left when it is the only one, or before that, after each answer, with the chance `hurry`.

    A seed fixes the object. With options={"held_out": True} nothing changes: there are no other objects.
    """

    def __init__(self, objects: int = 64, turns: int = 20, hurry: float = 0.15, errors: float = 0.5) -> None:
        for name, value, allowed, bounds in (
            ("objects", objects, 8 <= objects <= 128, "from 8 to 128"), ("turns", turns, 1 <= turns <= 1_000, "from 1 to 1000"),
            ("hurry", hurry, 0 <= hurry <= 1, "from 0 to 1"), ("errors", errors, 0 <= errors <= 1, "from 0 to 1"),
        ):  # fmt: skip
            if not allowed:
                raise ValueError(f"{name} is {value!r}; allowed: {bounds}")
        self.objects, self.turns, self.hurry, self.errors = objects, turns, hurry, errors
        self.observation_space = spaces.Text(1, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.table, self.names = described(objects)
        self.object = self.done = 0
        self.open = np.ones(objects, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.object = int(self.np_random.integers(self.objects))
        self._begin()
        solution = self._solution()
        self._begin()
        return "?", {"solution": solution}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.done += 1
        before, said, solved = self.open.sum(), ".", False
        if len(action) == 1 and 0 <= (n := LOWER.find(action)) < ATTRIBUTES:
            has = bool(self.table[self.object, n])
            self.open &= self.table[:, n] == has
            said = action.upper() if has else action
        elif action in self.names:
            named = self.names.index(action)
            solved = named == self.object
            self.open &= (np.arange(self.objects) == named) == solved
            said = "+" if solved else "-"
        left = int(self.open.sum())
        info = {"solved": float(solved), "left": float(left), "bits": float(np.log2(before / left))}
        return said, solved - 1.0, solved or self.done >= self.turns, False, info

    def _begin(self) -> None:
        self.done = 0
        self.open = np.ones(self.objects, bool)

    def _solution(self) -> list[str]:
        written, over = list[str](), False
        while not over:
            new = [n for n in range(ATTRIBUTES) if LOWER[n] not in written]
            if self.open.sum() == 1 or (written and self.np_random.random() < self.hurry):
                written.append(self.names[int(self.np_random.choice(self.open.nonzero()[0]))])
            else:
                silly = not new or self.np_random.random() < self.errors
                written.append(LOWER[int(self.np_random.integers(ATTRIBUTES) if silly else self.np_random.choice(new))])
            over = self.step(written[-1])[2]
        return written


def described(objects: int) -> tuple[np.ndarray, list[str]]:
    """(objects, 10) bool: the attributes of each, and its name."""
    number = np.arange(objects)
    bits = int(np.ceil(np.log2(objects)))
    spelled = number[:, None] >> np.arange(bits)[::-1] & 1 == 1
    rare = [np.random.default_rng(i).permutation(objects) < objects // 8 for i in range(ATTRIBUTES - bits)]
    length = 2 if objects <= 64 else 3
    parts = [number >> max(bits - 3, 0) & 7, number >> max(bits - 6, 0) & (7 if bits > 5 else 2 ** max(bits - 3, 0) - 1)]
    parts.append(number & 2 ** max(bits - 6, 0) - 1)
    names = [
        "".join(letters[int(i)] for letters, i in zip(LETTERS, row, strict=True))[:length] for row in zip(*parts, strict=True)
    ]
    return np.stack([*spelled.T, *rare], 1), names
