"""Gymnasium's pendulum and its cart with a pole, of which less is seen."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import NDArray

__all__ = ["HiddenCartPole", "HiddenPendulum", "PixelPendulum"]

Step = tuple[Any, float, bool, bool, dict[str, Any]]


class HiddenPendulum(gym.Env[Any, Any]):
    """Pendulum-v1 without its speed.

    Observation: cosine and sine of the angle, 0 upright. Action: the torque, in [-2, 2] N m.
    Reward: that of Pendulum-v1, -(angle^2 + 0.1 speed^2 + 0.001 torque^2).
    Ends: cut off after 200 steps.
    """

    observation_space: gym.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self) -> None:
        self.inner = PendulumEnv()
        self.action_space = self.inner.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.inner.reset(seed=seed, options=options)
        return self.observe(), {}

    def step(self, action: Any) -> Step:
        _, reward, _, _, _ = self.inner.step(action)
        return self.observe(), float(reward), False, False, {}

    def observe(self) -> Any:
        angle = self.inner.state[0]
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


class HiddenCartPole(gym.Env[Any, Any]):
    """CartPole-v1 without its two speeds.

    Observation: the cart's place and the pole's angle in rad. Action: 0 pushes the cart to the left, 1 to the right.
    Reward: 1 for each step. Ends: as CartPole-v1, where the cart or the pole has gone too far; cut off after 500 steps.
    """

    def __init__(self) -> None:
        self.inner = CartPoleEnv()
        space = self.inner.observation_space
        self.observation_space = spaces.Box(space.low[::2], space.high[::2])  # type: ignore[attr-defined]
        self.action_space = self.inner.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        obs, info = self.inner.reset(seed=seed, options=options)
        return obs[::2], info

    def step(self, action: Any) -> Step:
        obs, reward, terminated, _, info = self.inner.step(action)
        return obs[::2], float(reward), terminated, False, info


class PixelPendulum(HiddenPendulum):
    """Pendulum-v1 as a picture of its rod, white on black.

    Observation: (size, size, 1) of uint8; one picture shows no speed, two do. Action: the torque, in [-2, 2] N m.
    Reward: that of Pendulum-v1. Ends: cut off after 200 steps.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, size: int = 48, render_mode: str | None = None) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.render_mode = render_mode
        pixel = np.linspace(-1.3, 1.3, size, dtype=np.float32)  # in lengths of the rod
        self.x, self.y, self.width = pixel[None, :], -pixel[:, None], pixel[1] - pixel[0]

    def observe(self) -> NDArray[np.uint8]:
        return self.draw(float(self.inner.state[0]))

    def draw(self, angle: float) -> NDArray[np.uint8]:
        """How much of each pixel the rod covers, 0 to 255, by how far from the rod it is."""
        up, right = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = np.clip(self.x * right + self.y * up, 0, 1)
        beside = (self.x - along * right) ** 2 + (self.y - along * up) ** 2
        cover = np.clip((0.12 - np.sqrt(beside)) / self.width + 0.5, 0, 1)
        return (cover * 255).astype(np.uint8)[..., None]

    def render(self) -> Any:
        """(8 size, 8 size, 3), for a video."""
        return self.observe().repeat(8, 0).repeat(8, 1).repeat(3, 2)
