"""The question makers of the package reasoning-gym, each with its own checker: reasoning_gym/chain_sum and a hundred others."""

from __future__ import annotations

import string
import zlib
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from thespis.config import near
from thespis.core import Fault

__all__ = ["PREFIX", "Reasoning"]

PREFIX = "reasoning_gym/"


class Reasoning(gym.Env[str, str]):
    """A question of one maker. Action: the answer. Reward: what its checker says, from 0 to 1. Ends after one answer.

    `info` has "answer" after a step, 1 where the reward is, and at a reset "solution", the maker's own. With
    options={"held_out": True} a reset gives questions that it never gives without.
    """

    def __init__(self, name: str, **args: Any) -> None:
        """`args` are the maker's, as min_terms=2. Fault: the package is missing, it has no such maker, or an argument is none."""
        try:
            from reasoning_gym.factory import DATASETS, create_dataset
        except ImportError:
            raise Fault(f'env is {PREFIX + name!r}, which reasoning-gym brings: pip install "thespis[reasoning]"') from None
        if name not in DATASETS:
            raise Fault(f"env is {PREFIX + name!r}, which reasoning-gym does not have{near(name, DATASETS)}")
        try:
            self.questions = create_dataset(name, **{"seed": 0, "size": 10_000} | args)
        except (AssertionError, TypeError, ValueError) as error:  # what its makers raise
            raise Fault(f"env {PREFIX + name}: {' '.join(str(error).split())}") from None
        self.observation_space = spaces.Text(1_000_000, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000_000, min_length=0, charset=string.printable)
        self.entry: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        for _ in range(1_000):
            self.entry = self.questions[int(self.np_random.integers(len(self.questions)))]
            if (zlib.crc32(self.entry["question"].encode()) % 10 == 0) == held_out:
                answer = self.entry.get("answer")
                return self.entry["question"], {"solution": answer} if isinstance(answer, str) and answer else {}
        raise ValueError("it has too few questions to hold a tenth of them out")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        reward = float(self.questions.score_answer(answer=action.strip(), entry=self.entry))
        return "", reward, True, False, {"answer": float(reward >= 1), "final": action.strip()}
