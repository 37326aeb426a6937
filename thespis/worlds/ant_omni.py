"""MuJoCo's ant, which may go anywhere: where it ends, and what that costs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

__all__ = ["AntOmni"]


class AntOmni(AntEnv):
    """Gymnasium's Ant-v5, asked where it ends. `reach`: the metres that count as 1.

    Observation: Ant-v5's with its place (x, y), in metres, in front, and without the forces of contacts: 29 numbers.
    Action: Ant-v5's eight torques, in [-1, 1].
    Reward: three numbers. "fitness" is 1 less the mean square action; "x" and "y" are the displacement in units of `reach`, so
    that their sum over an episode is where it ends. In the return fitness alone counts.
    Ends: terminated where it falls; cut off after 100 steps of 0.05 s.

    The omnidirectional task of Faldor et al. 2023, arXiv:2303.03832, on another simulator, and shorter.
    """

    metadata: ClassVar[dict[str, Any]] = AntEnv.metadata | {  # type: ignore[misc]
        "reward_names": ["fitness", "x", "y"],
        "reward_weights": [1, 0, 0],
    }

    def __init__(self, reach: float = 3.0, render_mode: str | None = None) -> None:
        self.reach = reach
        parts: dict[str, Any] = dict.fromkeys(
            ("exclude_current_positions_from_observation", "include_cfrc_ext_in_observation"), False
        )
        super().__init__(render_mode=render_mode, **parts)
        self.reward_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        before = self.data.body(self._main_body).xpos[:2].copy()
        obs, _, terminated, truncated, info = super().step(action)
        moved = (self.data.body(self._main_body).xpos[:2] - before) / self.reach
        reward = np.concatenate([[1 - np.square(np.clip(action, -1, 1)).mean()], moved]).astype(np.float32)
        return obs, reward, terminated, truncated, info
