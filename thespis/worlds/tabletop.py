"""A gripper that pushes a disc about a table: the disc is what a skill is to move, and nothing moves it but the gripper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Discs", "Tabletop"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

HALF = 0.5
"""half the side of the table, m"""
FASTEST = 0.3
"""of the gripper on each axis, m/s"""
TOUCH = 0.09
"""from the gripper's centre to the disc's as they touch, m"""
MASS, SLIDING = 0.1, 0.3 * 9.81
"""of the disc, kg; what friction takes from its speed, m/s in a second"""
SPRING, DAMPER = 100.0, 1.0
"""of the contact, N/m and N s/m"""
LIMIT = 0.6
"""force of a touch above which it is not safe, N"""
PIECES, PIECE = 10, 0.01
"""of a step; how long each is, s"""
NEAR = 0.1
"""gap, m, over which the reward for reaching falls"""


class Tabletop(gym.Env[Floats, Floats]):
    """A round gripper and a disc on a square table of 1 m, seen from above; the gripper can push, not pull.

    Observation: positions of gripper and disc, from -1 to 1 on the table, their difference, the disc's velocity in units of the
    gripper's greatest, and whether the disc has fallen; nine numbers. The disc starts at rest at most 0.1 m from the middle on
    each axis, the gripper 0.3 to 0.45 m from the middle.
    Action: the gripper's velocity on each axis, in [-1, 1] of 0.3 m/s, for 0.1 s. It stays on the table.
    Reward: two numbers. "reach" is (1 - tanh(gap / 0.1 m)) / 2, and 1/2 more where the two touched. "safety" is -1 where the disc
    has fallen, less what the greatest force of the step exceeds 0.6 N by, in units of that, 1 at most.
    Ends: cut off after 50 steps. A disc beyond the edge falls, and lies there to the end.

    The contact is a spring with a damper, the friction Coulomb's: alone, a disc of speed v slides for
    v^2 / (2 * 0.3 * 9.81) m.
    After the table-top task of Emukpere et al. 2024, arXiv:2402.00823, of which it keeps the question, not the robot.
    """

    metadata = {"render_modes": [], "reward_names": ["reach", "safety"]}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (9,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    reward_space = spaces.Box(-2, 1, (2,), np.float32)

    def __init__(self) -> None:
        self.rows = self.batched(1)

    def batched(self, n: int) -> Discs:
        """n of them as one object."""
        return Discs(n)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        start = seed if seed is not None else int(self.np_random.integers(2**31))
        return self.rows.reset([start], np.ones(1, bool))[0], {}

    def step(self, action: Floats) -> tuple[Floats, Any, bool, bool, dict[str, Any]]:
        obs, reward, _, _ = self.rows.step(np.asarray(action, np.float32)[None], np.ones(1, bool))
        return obs[0], reward[0], False, False, {}


class Discs:
    """n tables, each as in `Tabletop`; positions in m, x and y in a row each."""

    action_dim = 2

    def __init__(self, n: int) -> None:
        self.hand, self.disc, self.speed = np.zeros((3, 2, n), np.float32)
        self.fallen = np.zeros(n, bool)

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        for i in np.flatnonzero(asked).tolist():
            x, y, turn, far = np.random.default_rng(int(seeds[i])).uniform(size=4)
            self.disc[:, i] = 0.2 * x - 0.1, 0.2 * y - 0.1
            radius = 0.3 + 0.15 * far
            self.hand[:, i] = radius * np.cos(2 * np.pi * turn), radius * np.sin(2 * np.pi * turn)
        self.speed[:, asked], self.fallen[asked] = 0, False
        return self._seen()

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        """As envs.rows.Rows has it; rewards (n, 2)."""
        before = None if asked.all() else (self.hand.copy(), self.disc.copy(), self.speed.copy(), self.fallen.copy())
        velocity = FASTEST * np.clip(actions, -1, 1).T.astype(np.float32)
        force = np.zeros(len(asked), np.float32)
        for _ in range(PIECES):
            np.maximum(force, self._piece(velocity), out=force)
        gap = np.maximum(self._apart()[1] - TOUCH, 0)
        unsafe = self.fallen + np.clip(force / LIMIT - 1, 0, 1)
        reach = (1 - np.tanh(gap / NEAR)) / 2 + (force > 0) / 2
        reward = np.stack([reach, -unsafe], 1)
        if before is not None:
            for name, old in zip(("hand", "disc", "speed", "fallen"), before, strict=True):
                setattr(self, name, np.where(asked, getattr(self, name), old))
        no = np.zeros(len(asked), bool)
        return self._seen(), reward.astype(np.float32), no, no

    def _piece(self, velocity: Floats) -> Floats:
        """Moves all on by PIECE; the force of each contact, (n,)."""
        hand = np.clip(self.hand + PIECE * velocity, -HALF, HALF)
        moved, self.hand = (hand - self.hand) / PIECE, hand
        apart, far = self._apart()
        normal = apart / np.maximum(far, 1e-6)
        closing = ((moved - self.speed) * normal).sum(0)
        touching = (far < TOUCH) & ~self.fallen
        force = np.where(touching, np.maximum(SPRING * (TOUCH - far) + DAMPER * closing, 0), 0).astype(np.float32)
        speed = self.speed + PIECE / MASS * force * normal
        left = 1 - PIECE * SLIDING / np.maximum(np.sqrt((speed * speed).sum(0)), 1e-9)
        self.speed = speed * np.maximum(left, 0) * ~self.fallen
        self.disc = self.disc + PIECE * self.speed
        self.fallen = self.fallen | (np.abs(self.disc) > HALF).any(0)
        return force

    def _apart(self) -> tuple[Floats, Floats]:
        """From the gripper to the disc, (2, n), and how far that is, (n,)."""
        apart = self.disc - self.hand
        return apart, np.sqrt((apart * apart).sum(0))

    def _seen(self) -> Floats:
        hand, disc = self.hand / HALF, self.disc / HALF
        return np.concatenate([hand, disc, disc - hand, self.speed / FASTEST, self.fallen[None]]).T.astype(np.float32)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        return {i: {"fallen": float(self.fallen[i])} for i in rows}

    def close(self) -> None: ...
