"""Rows of digits to be added up in any order: many answers are right, and all of them can be counted."""

from __future__ import annotations

import string
import zlib
from functools import cache
from typing import Any

import gymnasium as gym
from gymnasium import spaces

__all__ = ["Derivations"]


class Derivations(gym.Env[str, str]):
    """Add up a row of digits, two neighbours at a time, in any order: from 3524 over 824 and 86 to 4.

    Observation: `terms` digits below `modulus`, such as "3524".
    Action: text, every row that follows, apart by spaces: "824 86 4". A row is the one before it with two neighbours replaced by
    their sum modulo `modulus`; the last has one digit.
    Reward: 1 where all rows are right, else 0.
    Ends: terminated after one answer.

    `info` has after a step "answer" (whether the last digit is right), "steps" (the share of rows that are right up to the first
    wrong one) and the text "final", the last digit. At a reset it has "count", how many distinct answers are right, and
    "solution", one of them: at each row an author draws two neighbours, each as often.

    A seed fixes the task. With options={"held_out": True} a reset gives tasks that it never gives without.
    """

    def __init__(self, terms: int = 5, modulus: int = 10) -> None:
        for name, value, low, high in (("terms", terms, 2, 9), ("modulus", modulus, 2, 10)):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; allowed: from {low} to {high}")
        self.terms, self.modulus = terms, modulus
        self.observation_space = spaces.Text(terms, min_length=0, charset=string.digits)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.text = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        while (zlib.crc32((text := self._task()).encode()) % 10 == 0) != held_out:
            pass
        self.text, row, rows = text, text, list[str]()
        while len(row) > 1:
            row = added(row, int(self.np_random.integers(len(row) - 1)), self.modulus)
            rows.append(row)
        return text, {"solution": " ".join(rows), "count": count(text, self.modulus)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        row, rows, right = self.text, action.split(" "), 0
        for said in rows:
            if said not in following(row, self.modulus):
                break
            row, right = said, right + 1
        final = action[-1:]
        answer = float(final == str(sum(map(int, self.text)) % self.modulus))
        told = {"answer": answer, "steps": right / (self.terms - 1), "final": final}
        return "", float(right == len(rows) == self.terms - 1), True, False, told

    def _task(self) -> str:
        return "".join(map(str, self.np_random.integers(self.modulus, size=self.terms)))


def added(row: str, i: int, modulus: int) -> str:
    """The row with its digits i and i + 1 replaced by their sum."""
    return f"{row[:i]}{(int(row[i]) + int(row[i + 1])) % modulus}{row[i + 2 :]}"


def following(row: str, modulus: int) -> set[str]:
    """All rows that may follow; two orders can give the same one."""
    return {added(row, i, modulus) for i in range(len(row) - 1)}


@cache
def count(row: str, modulus: int) -> int:
    """How many distinct answers are right: paths through rows, not orders of sums."""
    return sum(count(after, modulus) for after in following(row, modulus)) if len(row) > 1 else 1
