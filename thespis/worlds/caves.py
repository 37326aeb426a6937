"""Caves with a way out, seen a few cells at a time: moss grows near the exit, lava far from it. Levels are given, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Caves", "distances", "drawn", "solvable", "tiles"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
FLOOR, WALL, MOSS, LAVA, EXIT = range(5)
TRAIN, HELD_OUT = range(2)
"""streams of levels that no seed has in common"""


class Caves(gym.Env[Floats, Any]):
    """A cave of `size` x `size` cells that has to be left.

    Observation: of each of `view` x `view` cells around the body whether it is wall, moss, lava, the exit, and how often the body
    was there, divided by 4 and at most 1. It does not say where in the cave the body is.
    Action: a step up, right, down or left; none into a wall.
    Reward: 1 - 0.9 t / `steps` for the step t that reaches the exit, else 0.
    Ends: terminated at the exit and in lava; cut off after `steps`.

    A level is `size`^2 numbers, of each cell 0 floor, 1 wall, 2 moss, 3 lava, and then the cells of start and exit:
    `context_space`. Any such row is a level, though not always a solvable one. Without a level, or given a row of zeros, an
    episode is in one that is drawn from its seed by `drawn`: a tree of passages, with some walls gone; the exit anywhere, the
    start in the farther half; floor is moss with a chance that falls with its distance from the exit, and walls beside the
    passages are lava with one that rises. With `levels` it is one of the first so many of another stream, those that `recorded`
    gives as data: the training levels.
    A proxy of Cave Escape (Garcin et al. 2024, arXiv:2402.03479), whose MiniGrid mazes have 15 x 15 cells.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self, size: int = 9, view: int = 5, steps: int = 60, levels: int = 0, data: int = 32, render_mode: str | None = None
    ) -> None:
        """`size` and `view` are odd; `data` is how many levels `recorded` gives."""
        if size < 5 or size % 2 == 0 or view < 3 or view % 2 == 0:
            raise ValueError(f"size is {size} and view {view}; both must be odd, of at least 5 and 3")
        self.size, self.view, self._max_episode_steps, self.levels, self.data = size, view, steps, levels, data
        self.render_mode = render_mode
        self.rows = self.batched(1)
        self.observation_space = spaces.Box(0, 1, (5 * view * view,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.context_space = spaces.MultiDiscrete([4] * size**2 + [size**2] * 2)

    def batched(self, n: int) -> Rows:
        """n of them as one object."""
        return Rows(n, self.size, self.view, self._max_episode_steps, self.levels)

    def recorded(self) -> Mapping[str, Any]:
        """Columns (data/columns.py) whose contexts are the training levels, a step each."""
        contexts = np.stack([drawn(self.size, i, TRAIN) for i in range(self.data)])
        rows = self.batched(self.data)
        obs = rows.reset([0] * self.data, np.ones(self.data, bool), contexts.astype(np.float32))
        none = np.zeros(self.data)
        return {
            "observations": obs, "actions": none.astype(np.int64), "rewards": none, "terminals": none + 1, "contexts": contexts,
            "next_observations": obs, "observation_space": self.observation_space, "action_space": self.action_space,
        }  # fmt: skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        context = (options or {}).get("context")
        given = None if context is None else np.asarray(context, np.float32)[None]
        return self.rows.reset([start], np.ones(1, bool), given)[0], {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated = self.rows.step(np.array([action]), np.ones(1, bool))
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        picture = draw(self.rows.level[:1])[0]
        row, column = divmod(int(self.rows.at[0]), self.rows.width)
        y, x = 16 * (row - self.rows.pad), 16 * (column - self.rows.pad)
        picture[y + 4 : y + 12, x + 4 : x + 12] = (31, 95, 209)
        return picture


class Rows:
    """n caves, each as in `Caves`."""

    action_dim = 0

    def __init__(self, n: int, size: int = 9, view: int = 5, steps: int = 60, levels: int = 0) -> None:
        self.size, self.steps, self.levels, self.pad = size, steps, levels, view // 2
        self.width = size + 2 * self.pad
        self.level = np.zeros((n, size * size + 2), np.int64)
        self.grid: Ints = np.full((n, self.width**2), WALL)
        self.visits: Floats = np.zeros((n, self.width**2), np.float32)
        self.at, self.time, self.each = np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(n)
        inner = np.arange(size) + self.pad
        self.inner = (inner[:, None] * self.width + inner).ravel()  # the places of a level's cells
        self.at[:] = self.inner[0]
        side = np.arange(view) - self.pad
        self.seen = (side[:, None] * self.width + side).ravel()
        self.move = np.array([-self.width, 1, self.width, -1])
        self.marks = np.pad(np.eye(5, dtype=np.float32)[:, 1:], ((0, 0), (0, 1)))  # floor is nothing; the last is for visits

    def reset(self, seeds: Sequence[int], asked: Mask, contexts: Floats | None = None) -> Floats:
        rows = np.flatnonzero(asked)
        level = np.zeros((len(rows), self.level.shape[1]), np.int64) if contexts is None else contexts[rows].round().astype(int)
        for k in np.flatnonzero(~level.any(1)):
            seed = seeds[rows[k]]
            level[k] = drawn(self.size, seed % self.levels, TRAIN) if self.levels else drawn(self.size, seed, HELD_OUT)
        grid, start = tiles(level)
        self.level[rows], self.grid[rows[:, None], self.inner] = level, grid
        self.visits[rows], self.time[rows], self.at[rows] = 0, 0, self.inner[start]
        self.visits[rows, self.at[rows]] = 0.25
        return self._seen()

    def step(self, actions: NDArray[Any], asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        """As envs.rows.Rows has it."""
        to = self.at + self.move[actions.astype(np.int64)]
        to = np.where(asked & (self.grid[self.each, to] != WALL), to, self.at)
        tile, self.at = self.grid[self.each, to], to
        self.time += asked
        self.visits[self.each, to] += np.where(asked, np.float32(0.25), np.float32(0))
        reward = np.where(tile == EXIT, 1 - 0.9 * self.time / self.steps, 0).astype(np.float32)
        return self._seen(), reward, tile >= LAVA, self.time >= self.steps

    def _seen(self) -> Floats:
        near = (self.each * self.width**2 + self.at)[:, None] + self.seen
        obs = self.marks.take(self.grid.take(near), 0)
        np.minimum(self.visits.take(near), 1, out=obs[..., 4])
        return obs.reshape(len(near), -1)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        return {i: {"solved": float(self.grid[i, self.at[i]] == EXIT)} for i in rows}

    def close(self) -> None: ...


def tiles(levels: NDArray[Any]) -> tuple[Ints, Ints]:
    """Of levels (n, C) the cells (n, size^2), with start and exit in them, and the start (n,). Where both would be one cell, the
    exit is the next."""
    levels = np.asarray(levels).round().astype(np.int64)
    each, cells = np.arange(len(levels)), levels.shape[1] - 2
    start, out = levels[:, -2] % cells, levels[:, -1] % cells
    grid = np.clip(levels[:, :-2], FLOOR, LAVA)
    grid[each, start] = np.where(grid[each, start] == MOSS, MOSS, FLOOR)
    grid[each, np.where(out == start, (out + 1) % cells, out)] = EXIT
    return grid, start


def distances(grid: Ints) -> Ints:
    """Steps to the exit from each cell of grids (n, size^2): -1 where no way leads there, or none that spares wall and lava."""
    size = int(grid.shape[1] ** 0.5)
    square = grid.reshape(-1, size, size)
    free, reached = (square != WALL) & (square != LAVA), square == EXIT
    found = np.where(reached, 0, -1)
    for step in range(1, size * size):
        wide = np.pad(reached, ((0, 0), (1, 1), (1, 1)))
        new = (wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]) & free & ~reached
        if not new.any():
            break
        found[new], reached = step, reached | new
    return found.reshape(len(grid), -1)


def solvable(levels: NDArray[Any]) -> Mask:
    """Which of levels (n, C) have a way from start to exit, (n,)."""
    grid, start = tiles(levels)
    return np.asarray(distances(grid)[np.arange(len(grid)), start] > 0)


@lru_cache(maxsize=100_000)
def drawn(size: int, seed: int, stream: int, moss: float = 0.8, lava: float = 0.4) -> Ints:
    """A level (size^2 + 2,) by the law of `Caves`; solvable by how it is made. Not to be written to."""
    rng, grid = np.random.default_rng([stream, seed]), np.full((size, size), WALL)
    room = (0, 0)
    grid[room], path = FLOOR, [room]
    while path:  # depth first
        y, x = path[-1]
        ways = [(y + dy, x + dx) for dy, dx in ((-2, 0), (2, 0), (0, -2), (0, 2)) if 0 <= y + dy < size and 0 <= x + dx < size]
        ways = [way for way in ways if grid[way] == WALL]
        if not ways:
            path.pop()
            continue
        way = ways[rng.integers(len(ways))]
        grid[way] = grid[(y + way[0]) // 2, (x + way[1]) // 2] = FLOOR
        path.append(way)
    between = np.add.outer(np.arange(size), np.arange(size)) % 2 == 1  # walls that part two rooms
    grid[between & (grid == WALL) & (rng.random((size, size)) < 0.15)] = FLOOR
    rooms = np.arange(0, size, 2)[:, None] * size + np.arange(0, size, 2)
    out = rng.choice(rooms.ravel())
    grid.ravel()[out] = EXIT
    far = distances(grid.reshape(1, -1))[0].reshape(size, size)
    farther = rooms[far[::2, ::2] >= np.median(far[::2, ::2])]
    start = rng.choice(farther[farther != out])
    wide = np.pad(far, 1, constant_values=-1)
    beside = np.stack([wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]]).astype(float)
    beside = np.where(beside < 0, np.inf, beside).min(0)  # of a wall, the distance of the nearest passage beside it
    chance = rng.random((size, size))
    grid[(grid == FLOOR) & (chance < moss * np.clip(1 - far / (0.6 * far.max()), 0, 1))] = MOSS
    near = np.where(np.isfinite(beside), beside, 0) / far.max()
    grid[(grid == WALL) & (chance < lava * near)] = LAVA
    grid.ravel()[out] = FLOOR
    level = np.append(grid.ravel(), [start, out]).astype(np.int64)
    level.flags.writeable = False
    return level


COLOURS = np.array([(236, 232, 222), (70, 66, 64), (110, 160, 80), (214, 84, 32), (250, 206, 60)], np.uint8)


def draw(levels: NDArray[Any], cell: int = 16) -> list[NDArray[np.uint8]]:
    """Levels (n, C) as pictures (height, width, 3): the start a dark dot, the exit yellow."""
    grid, start = tiles(levels)
    size, pictures = int(grid.shape[1] ** 0.5), []
    for row, at in zip(grid, start.tolist(), strict=True):
        picture = np.kron(COLOURS[row.reshape(size, size)], np.ones((cell, cell, 1), np.uint8))
        y, x = cell * (at // size), cell * (at % size)
        picture[y + cell // 3 : y + 2 * cell // 3, x + cell // 3 : x + 2 * cell // 3] = (20, 20, 20)
        pictures.append(picture)
    return pictures
