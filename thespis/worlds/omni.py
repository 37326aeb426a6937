"""A body that many muscles pull, which may go anywhere: what a policy is asked is where it ends, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Omni"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
SIDE = 300
"""pixels of a picture"""


class Omni(gym.Env[Floats, Floats]):
    """A body in a square, pulled by `muscles` around it; a wall with three sides, open to the left, stands about its start.

    Observation: position (x, y) and 20 times the velocity, then how far each muscle is contracted, from 0 to 1. It starts at rest
    in the middle, at (0, 0), with every muscle at rest.
    Action: how far each muscle is to contract, in [-1, 1]: -1 is not at all; a muscle goes half of the way in a step.
    Reward: three numbers. "fitness" is 1 less the mean square contraction; "x" and "y" are the displacement, so that their sum
    over an episode is where it ends, each in [-1, 1]. In the return fitness alone counts.
    Ends: cut off after 60 steps.

    Muscle i pulls along (cos, sin)(2 pi i / muscles). Those that face each other cancel out, so most policies contract in vain.
    The velocity is 0.8 of what it was, plus the force times `strength`. Walls stop what crosses them, on that axis.
    From the omnidirectional tasks of Faldor et al. 2023, arXiv:2303.03832, of which it keeps the question, not the physics.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "reward_names": ["fitness", "x", "y"],
        "reward_weights": [1, 0, 0],
    }

    def __init__(self, muscles: int = 8, strength: float = 0.004, trap: bool = True, render_mode: str | None = None) -> None:
        self.given = muscles, strength, trap
        self.render_mode, self.rows, self.way = render_mode, self.batched(1), np.zeros((1, 2))
        low, high = np.full(4 + muscles, -np.inf, np.float32), np.full(4 + muscles, np.inf, np.float32)
        low[:2], high[:2], low[4:], high[4:] = -1, 1, 0, 1
        self.observation_space = spaces.Box(low, high)
        self.action_space = spaces.Box(-1, 1, (muscles,), np.float32)
        self.reward_space = spaces.Box(-1, 1, (3,), np.float32)

    def batched(self, n: int) -> Muscles:
        """n of them as one object."""
        return Muscles(n, *self.given)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.way = np.zeros((1, 2))
        return self.rows.reset([0], np.ones(1, bool))[0], {}

    def step(self, action: Floats) -> tuple[Floats, Any, bool, bool, dict[str, Any]]:
        obs, reward, _, _ = self.rows.step(np.asarray(action, np.float32)[None], np.ones(1, bool))
        self.way = np.vstack([self.way, obs[:, :2]])
        return obs[0], reward[0], False, False, {}

    def render(self) -> Any:
        """The square with its walls and the way so far, and each muscle as long as it is contracted, (300, 300, 3) of bytes."""
        from PIL import Image, ImageDraw

        image, rows, w = Image.new("RGB", (SIDE, SIDE), "white"), self.rows, self.rows.wall
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(190, 190, 190))
        place = lambda points: [(SIDE / 2 * (1 + x), SIDE / 2 * (1 - y)) for x, y in points]
        if rows.trap:
            draw.line(place([(0, w), (w, w), (w, -w), (0, -w)]), "black", 4)
        for pull, contracted in zip(rows.pull, rows.contracted[0], strict=True):
            end = rows.at[0] + 0.25 * contracted * pull / np.linalg.norm(pull)
            draw.line(place([rows.at[0], end]), (196, 102, 31), 3)
        draw.line(place(self.way), (31, 95, 209), 3)
        x, y = place(rows.at)[0]
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), (31, 95, 209))
        return np.asarray(image)


class Muscles:
    """n bodies, each as in `Omni`."""

    wall = 0.25
    """half the height of the wall, and how far to the right of the start it stands"""

    def __init__(self, n: int, muscles: int = 8, strength: float = 0.004, trap: bool = True) -> None:
        angle = 2 * np.pi * np.arange(muscles) / muscles
        self.pull = (strength * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
        self.action_dim, self.trap = muscles, trap
        self.at: Floats
        self.speed: Floats
        self.at, self.speed = np.zeros((2, n, 2), np.float32)
        self.contracted: Floats = np.zeros((n, muscles), np.float32)

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        self.at[asked], self.speed[asked], self.contracted[asked] = 0, 0, 0
        return self._seen()

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        """As envs.rows.Rows has it; rewards (n, 3)."""
        new: Floats = 0.5 * (self.contracted + (np.clip(actions, -1, 1) + 1) / 2).astype(np.float32)
        speed: Floats = 0.8 * self.speed + new @ self.pull
        end = self._stopped(self.at, self.at + speed)
        moved, free = end - self.at, end == self.at + speed
        reward = np.concatenate([1 - np.square(new).mean(1, keepdims=True), moved], 1)
        if asked.all():
            self.at, self.speed, self.contracted = end, speed * free, new
        else:
            for name, value in ("at", end), ("speed", speed * free), ("contracted", new):
                setattr(self, name, np.where(asked[:, None], value, getattr(self, name)))
        no = np.zeros(len(end), bool)
        return self._seen(), reward, no, no

    def _stopped(self, start: Floats, end: Floats) -> Floats:
        """Where steps (n, 2) end: the axis that would cross a wall stays."""
        end = np.clip(end, -1, 1)
        if not self.trap:
            return end
        w, delta = np.float32(self.wall), end - start
        with np.errstate(divide="ignore", invalid="ignore"):
            at_x = start[:, 1] + delta[:, 1] * (w - start[:, 0]) / delta[:, 0]  # y where x = w is crossed
            across = ((start[:, 0] < w) != (end[:, 0] < w)) & (np.abs(at_x) <= w)
            sides = np.zeros(len(end), bool)
            for side in (-w, w):
                at_y = start[:, 0] + delta[:, 0] * (side - start[:, 1]) / delta[:, 1]
                sides |= ((start[:, 1] < side) != (end[:, 1] < side)) & (at_y >= 0) & (at_y <= w)
        end[across, 0], end[sides, 1] = start[across, 0], start[sides, 1]
        return end

    def _seen(self) -> Floats:
        return np.concatenate([self.at, 20 * self.speed, self.contracted], 1)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        return {}

    def close(self) -> None: ...
