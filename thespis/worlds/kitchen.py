"""Two cooks in a cramped room: onions into the pot, a soup onto a dish, and out. What they earn is shared, and so is the room."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["CrampedRoom", "Kitchens"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

ROOM = ("XXPXX", "O   O", "X   X", "XDXSX")
STARTS = ((1, 2), (3, 1))
"""(column, row) of each cook, who looks up"""
MOVES = ((0, -1), (0, 1), (1, 0), (-1, 0))
STAY, INTERACT = 4, 5
FREE, COUNTER, ONIONS, DISHES, POT, SERVE = range(6)
NOTHING, ONION, DISH, SOUP, THIN = range(5)
"""what a hand or a counter holds; a thin soup has fewer than three onions, and nobody ordered it"""
COOKING = 20
"""steps that a soup takes"""
EARNED = 20.0
"""for a soup that is served, half of it for each cook"""

CELLS = [(x, y) for y, row in enumerate(ROOM) for x, c in enumerate(row) if c == " "]
_COUNTERS = sorted({(x + dx, y + dy) for x, y in CELLS for dx, dy in MOVES if ROOM[y + dy][x + dx] == "X"})
GOES = np.array(
    [[CELLS.index(p) if (p := (x + dx, y + dy)) in CELLS else i for dx, dy in MOVES] for i, (x, y) in enumerate(CELLS)]
)
"""(cells, 4): where a move in each direction leads"""
SEES = np.array([[" XODPS".index(ROOM[y + dy][x + dx]) for dx, dy in MOVES] for x, y in CELLS])
"""(cells, 4): what stands there"""
PLACE = np.array([[_COUNTERS.index(p) if (p := (x + dx, y + dy)) in _COUNTERS else 0 for dx, dy in MOVES] for x, y in CELLS])
"""(cells, 4): which counter it is"""


class CrampedRoom(gym.Env[Floats, Ints]):
    """The room "cramped_room" of Overcooked-AI (Carroll et al. 2019, arXiv:1910.05789), by its rules of today.

    Observation: for each cook its cell, direction and hand, the other's, the pot's onions, whether it cooks or is done and for
    how long, and what lies on each counter, ones and zeros but for the time; then a 1: the cook is there.
    Action: for each cook 0 up, 1 down, 2 right, 3 left, 4 stay, 5 interact with what it looks at. Whoever walks into something
    turns to it. If both want one cell, or each other's, nobody moves.
    Reward: for each cook 10 where a soup of three onions is served, by whomever.
    Ends: never; cut off after `horizon` steps.

    An empty hand at the pot starts it, which takes 20 steps; only a dish takes the soup. `demos` episodes of scripted cooks,
    who do something at random in a tenth of their steps, are what `recorded` gives, drawn by `demo_seed`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "reward_names": ["agent_0", "agent_1"],
        "agents": 2,
    }

    def __init__(self, horizon: int = 200, demos: int = 10, demo_seed: int = 0) -> None:
        self.demos, self.demo_seed, self._max_episode_steps = demos, demo_seed, horizon
        self.rows = Kitchens(1)
        self.observation_space = spaces.Box(0, 1, (self.rows.observed().shape[1],), np.float32)
        self.action_space = spaces.MultiDiscrete([6, 6])
        self.reward_space = spaces.Box(0, EARNED / 2, (2,), np.float32)

    def recorded(self) -> dict[str, Any]:
        """`demos` episodes of scripted cooks as columns of a dataset."""
        rng, rows, length = np.random.default_rng(self.demo_seed), Kitchens(self.demos), self._max_episode_steps
        seen, done, earned = [rows.observed()], [], []
        for _ in range(length):
            done.append(scripted(rows, rng))
            earned.append(rows.step(done[-1]))
            seen.append(rows.observed())
        obs, actions, reward = (np.stack(x, 1) for x in (seen, done, earned))
        flat = lambda x: x.reshape(self.demos * length, *x.shape[2:])
        return {
            "observations": flat(obs[:, :-1]), "actions": flat(actions), "next_observations": flat(obs[:, 1:]),
            "rewards": np.repeat(flat(reward)[:, None] / 2, 2, 1), "terminals": np.zeros(self.demos * length),
            "timeouts": np.tile(np.arange(length) == length - 1, self.demos),
            "observation_space": self.observation_space, "action_space": self.action_space,
        }  # fmt: skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.rows, self.steps = Kitchens(1), 0
        return self.rows.observed()[0], {}

    def step(self, action: Ints) -> tuple[Floats, Any, bool, bool, dict[str, Any]]:
        earned = self.rows.step(np.asarray(action)[None])[0]
        self.steps += 1
        reward = np.full(2, earned / 2, np.float32)
        return self.rows.observed()[0], reward, False, self.steps >= self._max_episode_steps, {}


class Kitchens:
    """n rooms, all at their beginning."""

    def __init__(self, n: int) -> None:
        self.at = np.tile([CELLS.index(p) for p in STARTS], (n, 1))
        self.facing, self.hand = np.zeros((2, n, 2), np.int64)
        self.counters = np.zeros((n, len(_COUNTERS)), np.int64)
        self.onions = np.zeros(n, np.int64)
        self.ticks = np.full(n, -1)
        """since the pot was started; -1: it was not"""

    def step(self, actions: Ints) -> Floats:
        """Actions (n, 2) -> what both earn together, (n,). First who interacts does, the first cook before the second; then they
        move; then the pot cooks."""
        earned, rows = np.zeros(len(self.at), np.float32), np.arange(len(self.at))
        for i in range(2):
            where = self.at[:, i], self.facing[:, i]
            sees, counter, hand = np.where(actions[:, i] == INTERACT, SEES[where], FREE), PLACE[where], self.hand[:, i]
            lies, empty = self.counters[rows, counter], hand == NOTHING
            swap = (sees == COUNTER) & (empty != (lies == NOTHING))  # one of both is empty
            idle, ready = self.ticks < 0, self.ticks >= COOKING
            put = (sees == POT) & (hand == ONION) & idle & (self.onions < 3)
            start = (sees == POT) & empty & idle & (self.onions > 0)
            fill = (sees == POT) & (hand == DISH) & ready
            served = (sees == SERVE) & (hand >= SOUP)
            earned += EARNED * (served & (hand == SOUP))
            self.counters[rows, counter] = np.where(swap, hand, lies)
            self.hand[:, i] = np.select(
                [swap, (sees == ONIONS) & empty, (sees == DISHES) & empty, put | served, fill],
                [lies, ONION, DISH, NOTHING, np.where(self.onions == 3, SOUP, THIN)], hand,
            )  # fmt: skip
            self.onions = np.where(fill, 0, self.onions + put)
            self.ticks = np.select([fill, start], [-1, 0], self.ticks)
        moves = actions < STAY
        to = np.where(moves, GOES[self.at, np.minimum(actions, 3)], self.at)
        self.facing = np.where(moves, actions, self.facing)
        stuck = (to[:, 0] == to[:, 1]) | (to == self.at[:, ::-1]).all(1)
        self.at = np.where(stuck[:, None], self.at, to)
        self.ticks += (self.ticks >= 0) & (self.ticks < COOKING)
        return earned

    def observed(self) -> Floats:
        """(n, numbers), the first cook's and then the second's."""
        one = lambda x, many: np.eye(many, dtype=np.float32)[x]
        cooks = [np.concatenate([one(self.at[:, i], 6), one(self.facing[:, i], 4), one(self.hand[:, i], 5)], 1) for i in (0, 1)]
        on, done = self.ticks >= 0, self.ticks >= COOKING
        pot = np.column_stack([one(self.onions, 4), on & ~done, done, self.ticks.clip(0) / COOKING])
        rest = np.concatenate([pot, one(self.counters, 5).reshape(len(self.at), -1), np.ones((len(self.at), 1))], 1)
        return np.concatenate([cooks[0], cooks[1], rest, cooks[1], cooks[0], rest], 1).astype(np.float32)


def _ways() -> Ints:
    """(kinds, cells, 4): what a cook at a cell, looking some way, does to come before what it wants, as if it were alone: a
    move, or INTERACT where it is."""
    out = np.full((6, len(CELLS), 4), STAY)
    for kind in range(1, 6):
        goal = deque(zip(*np.nonzero(np.equal(SEES, kind)), strict=True))
        for pose in goal:
            out[(kind, *pose)] = INTERACT
        while goal:
            cell, facing = goal.popleft()
            for before in range(len(CELLS)):
                if GOES[before, facing] == cell:  # by a move that way, however it looked
                    for look in range(4):
                        if out[kind, before, look] == STAY and (before, look) != (cell, facing):
                            out[kind, before, look] = facing
                            goal.append((before, look))
    return out


WAYS = _ways()


def scripted(rows: Kitchens, rng: np.random.Generator, noise: float = 0.1) -> Ints:
    """What cooks do, (n, 2), who divide the work by what they hold; with the chance `noise` something else. Who would walk into
    the other goes anywhere in half of the cases."""
    out = np.full(rows.at.shape, STAY)
    idle, ready = rows.ticks < 0, rows.ticks >= COOKING
    for i in range(2):
        mine, other = rows.hand[:, i], rows.hand[:, 1 - i]
        full = idle & (rows.onions == 3)
        room = idle & (rows.onions < 3)
        wanted = room & (rows.onions + (other == ONION) < 3)
        served = (other == DISH) | (other >= SOUP)
        want = np.select(
            [
                mine >= SOUP, (mine == ONION) & room, (mine == ONION) & (full | (ready & (other == ONION) & (i == 1))),
                (mine == DISH) & ~idle, (mine == DISH) & full & (other == DISH) & (i == 1), mine != NOTHING,
                full, wanted, ~served, room | ~idle,
            ],
            [SERVE, POT, COUNTER, POT, COUNTER, FREE, POT, ONIONS, DISHES, ONIONS], FREE,
        )  # fmt: skip
        go = np.where(want == FREE, STAY, WAYS[want, rows.at[:, i], rows.facing[:, i]])
        go = np.where((go == INTERACT) & (want == POT) & (mine == DISH) & ~ready, STAY, go)
        bump = (go < STAY) & (GOES[rows.at[:, i], np.minimum(go, 3)] == rows.at[:, 1 - i]) & (rng.random(len(go)) < 0.5)
        other_way = bump | (rng.random(len(go)) < noise)
        out[:, i] = np.where(other_way, rng.integers(np.where(bump, 4, 6)), go)
    return out
