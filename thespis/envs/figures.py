"""Pictures of MuJoCo's environments that need no OpenGL: every geom's outline, seen from the side and filled, far ones first."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Env
from numpy.typing import NDArray

__all__ = ["Figures"]

Points = NDArray[np.float64]
SIZE = 480
SKY, FLOOR, LINE = (232, 238, 246), (206, 212, 220), (166, 174, 186)
TILT = np.radians(18)  # of the view, downwards
RIGHT, UP = np.array([1.0, 0, 0]), np.array([0, np.sin(TILT), np.cos(TILT)])
AWAY = np.array([0, np.cos(TILT), -np.sin(TILT)])


class Figures(gym.Wrapper[Any, Any, Any, Any]):
    """`env` with a `render()` of ours, (480, 480, 3) of uint8. The view goes along with the first body, but not up and down."""

    def __init__(self, env: Env[Any, Any]) -> None:
        assert self.possible(env)
        super().__init__(env)
        self.model, self.data = env.unwrapped.model, env.unwrapped.data  # type: ignore[attr-defined]
        self.shapes = [_shape(self.model, geom) for geom in range(self.model.ngeom)]
        self.reach = self.height = 0.0

    @staticmethod
    def possible(env: Env[Any, Any]) -> bool:
        """Whether it is one of MuJoCo's, with a model and its data where gymnasium has them."""
        mujoco, base = sys.modules.get("mujoco"), env.unwrapped
        kinds = (mujoco.MjModel, mujoco.MjData) if mujoco else ()
        return bool(kinds) and all(isinstance(getattr(base, n, None), k) for n, k in zip(("model", "data"), kinds, strict=True))

    def render(self) -> Any:
        from PIL import Image, ImageDraw

        root = self.data.xpos[1] if self.model.nbody > 1 else self.model.stat.center
        if not self.reach:  # of the first picture, and of all that follow
            far = np.linalg.norm(self.data.geom_xpos - root, axis=1) + self.model.geom_rbound
            self.reach, self.height = max(far[[shape is not None for shape in self.shapes]], default=1.0), root[2]
        scale, span = SIZE / (2.6 * self.reach), 2.2 * self.reach
        middle = np.array([root[0], root[1], self.height])

        def place(points: Points) -> list[tuple[float, float]]:
            at = points - middle
            return list(zip(SIZE / 2 + scale * (at @ RIGHT), SIZE / 2 - scale * (at @ UP), strict=True))

        image = Image.new("RGB", (SIZE, SIZE), SKY)
        draw = ImageDraw.Draw(image)
        marks = np.arange(np.floor(middle[0] - span), np.ceil(middle[0] + span) + 1)
        near, far = middle[1] - span, middle[1] + span
        corners = np.array([[x, y, 0.0] for x in marks[[0, -1]] for y in (near, far)])
        draw.polygon(_hull(place(corners)), fill=FLOOR)
        for x in marks:  # a line a metre, so that one sees it move
            draw.line(place(np.array([[x, near, 0.0], [x, far, 0.0]])), fill=LINE)
        for geom in np.argsort(-(self.data.geom_xpos @ AWAY)):
            shape, colour = self.shapes[geom], self.model.geom_rgba[geom]
            if shape is None or colour[3] == 0:
                continue
            points = shape @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom]
            fill = tuple(int(255 * c) for c in colour[:3])
            draw.polygon(_hull(place(points)), fill=fill, outline=tuple(int(0.6 * c) for c in fill))
        return np.asarray(image)


def _shape(model: Any, geom: int) -> Points | None:
    """Points (n, 3), in a geom's own frame, whose hull it is; None for a plane and what else has none."""
    mujoco = sys.modules["mujoco"]
    kind, size = mujoco.mjtGeom(model.geom_type[geom]), model.geom_size[geom]
    name = kind.name.removeprefix("mjGEOM_").lower()
    ball, ends = _ball(), np.array([[0, 0, -1.0], [0, 0, 1.0]])
    if name in ("sphere", "ellipsoid"):
        return ball * (size[0] if name == "sphere" else size)
    if name == "capsule":
        return (size[0] * ball[:, None] + size[1] * ends).reshape(-1, 3)
    if name == "cylinder":
        ring = ball * [1, 1, 0]
        return (size[0] * ring / np.linalg.norm(ring, axis=1, keepdims=True).clip(1e-9) + size[1] * ends[:, None]).reshape(-1, 3)
    if name == "box":
        return np.array(np.meshgrid(*[(-s, s) for s in size])).reshape(3, -1).T
    if name == "mesh":
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        return np.asarray(model.mesh_vert[start : start + count], np.float64)
    return None


def _ball(n: int = 160) -> Points:
    """Points spread over the unit sphere, (n, 3), on a spiral of golden angles."""
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of the convex hull of points in the plane, in order: Andrew's monotone chain."""
    points = sorted(set(points))
    if len(points) < 3:
        return points * 2 if points else [(0.0, 0.0)] * 2

    def half(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in points:
            while len(chain) > 1 and _left(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(points) + half(points[::-1])


def _left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Above 0 where a, b, c turn to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
