"""Minigrid's tasks in words: a view of the grid as signs, and answers of a thought and an action word."""

from __future__ import annotations

import os
import string
import zlib
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from thespis.fault import Fault

__all__ = ["MiniGrid"]

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle")
NUMBERS = {word: n for n, name in enumerate(ACTIONS) for word in (name, name[0])}
SIGNS = {"wall": "#", "floor": "_", "key": "k", "ball": "b", "box": "x", "goal": "g", "lava": "~"}
AXES = (((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((0, -1), (1, 0)))
"""of each direction what lies ahead and what to the right"""
OUTSIDE: Any = object()
"""what is beyond the grid, which is seen as a wall"""
State = tuple[int, int, int]
"""x, y and direction"""


class MiniGrid(gym.Env[str, str]):
    """A task of Minigrid, MiniGrid-`task`-v0 there, such as DoorKey-5x5, SimpleCrossingS9N1 or FourRooms.

    Observation: the direction of the actor, one of > v < ^, then what it sees: `view` times `view` places, row by row, the
    farthest first. It stands in the middle of the last row, where what it carries is shown. Signs: ? unseen, . empty, # wall,
    _ floor, / open door, | closed door, L locked door, k key, b ball, x box, g goal, ~ lava. Colours and mission are not told.
    Action: text whose last word is left, right, forward, pickup, drop or toggle, or the first letter of one. What stands before
    it is a thought, which the world does not look at. Any other word does nothing, but takes its turn.
    Reward: 1 where Minigrid gives a reward, which is where the task is solved; else 0.
    Ends: terminated as in Minigrid, when the task is solved or in lava; truncated after `turns` answers.

    `info` has after a step "solved" (0 or 1) and "unknown", the share of answers so far without an action word. At a reset it has
    "solution" where a way to a goal, or a door, is known: the answers, one a turn, of an author who sees the whole grid. Its
    thought is what it goes to (k, d or g) and where that lies (f, l, r or b: ahead, left, right, behind), as in "kl f"; with the
    chance `errors` its action is a random one.

    A seed fixes the grid. With options={"held_out": True} a reset gives grids that it never gives without, but for tasks that
    have only a few. Source: arXiv:2306.13831; the package minigrid.
    """

    def __init__(self, task: str = "DoorKey-5x5", view: int = 3, turns: int = 15, errors: float = 0.3) -> None:
        for name, value, allowed, bounds in (
            ("view", view, view in (3, 5, 7, 9), "3, 5, 7 or 9"), ("turns", turns, 1 <= turns <= 1_000, "from 1 to 1000"),
            ("errors", errors, 0 <= errors <= 1, "from 0 to 1"),
        ):  # fmt: skip
            if not allowed:
                raise ValueError(f"{name} is {value!r}; allowed: {bounds}")
        if find_spec("minigrid") is None:
            raise Fault("thespis/MiniGrid-v0 needs the package minigrid: pip install 'thespis[minigrid]'")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # its import would print a line
        import minigrid  # noqa: F401  # registers the tasks

        known = sorted(i[9:-3] for i in gym.registry if i.startswith("MiniGrid-") and i.endswith("-v0"))
        if task not in known:
            raise ValueError(f"task is {task!r}; allowed: {', '.join(known)}")
        grid: Any = gym.make(f"MiniGrid-{task}-v0", agent_view_size=view, disable_env_checker=True).unwrapped
        self.grid = grid
        self.grid.gen_obs = dict  # `_seen` is what the actor is told
        self.view, self.turns, self.errors = view, turns, errors
        self.observation_space = spaces.Text(1 + view * view, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.done = self.unknown = self.task = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        for _ in range(100):
            self.task = int(self.np_random.integers(2**31))
            self.grid.reset(seed=self.task)
            if (zlib.crc32(self.grid.hash().encode()) % 5 == 0) == held_out:
                break
        solution = self._solution()
        self.grid.reset(seed=self.task)
        self.done = self.unknown = 0
        return self._seen(), {"solution": solution} if solution else {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.done += 1
        word, solved, terminated = (action.split() or [""])[-1], False, False
        if word in NUMBERS:
            _, reward, terminated, _, _ = self.grid.step(NUMBERS[word])
            solved = reward > 0
        else:
            self.unknown += 1
        info = {"solved": float(solved), "unknown": self.unknown / self.done}
        return self._seen(), float(solved), terminated, not terminated and self.done >= self.turns, info

    def _seen(self) -> str:
        """As Minigrid's `gen_obs` has it, which takes ten times as long."""
        (x, y), n, (ahead, aside), get = self.grid.agent_pos, self.view, AXES[self.grid.agent_dir], self.grid.grid.get
        seen = [[False] * n for _ in range(n)]
        seen[-1][n // 2] = True
        text = list[str]()
        for j in reversed(range(n)):  # row by row, the nearest first; light goes aside and ahead
            place = [
                (x + ahead[0] * (n - 1 - j) + aside[0] * i, y + ahead[1] * (n - 1 - j) + aside[1] * i)
                for i in range(-(n // 2), n // 2 + 1)
            ]
            row = [get(*p) if 0 <= p[0] < self.grid.width and 0 <= p[1] < self.grid.height else OUTSIDE for p in place]
            for order, step in ((range(n - 1), 1), (range(n - 1, 0, -1), -1)):
                for i in order:
                    if seen[j][i] and (row[i] is None or (row[i] is not OUTSIDE and row[i].see_behind())):
                        seen[j][i + step] = True
                        if j:
                            seen[j - 1][i] = seen[j - 1][i + step] = True
            if j == n - 1:
                row[n // 2] = self.grid.carrying
            text.append("".join(sign(thing) if light else "?" for thing, light in zip(row, seen[j], strict=True)))
        return ">v<^"[self.grid.agent_dir] + "".join(reversed(text))

    # -------------------------------------------------------------------------------------------------- the author

    def _solution(self) -> list[str]:
        """Its answers, played to their end. None where there is no goal, or no way to it that it knows."""
        grid, written, things, ways = self.grid, list[str](), self._things(), dict[str, dict[State, int]]()
        for _ in range(self.turns):
            found = self._best((int(grid.agent_pos[0]), int(grid.agent_pos[1]), int(grid.agent_dir)), things, ways)
            if found is None:
                return []
            thought, word = found
            if self.errors and self.np_random.random() < self.errors:
                word = "lrfpt"[int(self.np_random.integers(5))]
            written.append(f"{thought} {word}")
            if grid.step(NUMBERS[word])[2]:
                break
            if word in "pt":
                things, ways = self._things(), {}
        return written

    def _things(self) -> dict[str, tuple[int, int]]:
        """The place of each kind of thing; of several the last."""
        grid = self.grid
        return {thing.type: (i % grid.width, i // grid.width) for i, thing in enumerate(grid.grid.grid) if thing}

    def _best(self, at: State, things: dict[str, tuple[int, int]], ways: dict[str, dict[State, int]]) -> tuple[str, str] | None:
        """A thought and an action word: to the goal where there is a way, or else to the door, for which it may need the key."""
        carries = self.grid.carrying is not None
        for target in ("goal", "door" if carries or not self._locked(things.get("door")) else "key"):
            if target in things and target not in ways:
                ways[target] = self._way(things[target], target == "goal")
            if at in ways.get(target, {}):
                break
        else:
            return None
        (x, y, d), way = at, ways[target]
        (ahead, aside), (u, v) = AXES[d], (things[target][0] - x, things[target][1] - y)
        f, r = ahead[0] * u + ahead[1] * v, aside[0] * u + aside[1] * v
        thought = target[0] + (("f" if f > 0 else "b") if abs(f) >= abs(r) else "r" if r > 0 else "l")
        if way[at] == 0:
            return thought, "p" if target == "key" else "t"
        after = {"f": (x + ahead[0], y + ahead[1], d), "l": (x, y, (d - 1) % 4), "r": (x, y, (d + 1) % 4)}
        return thought, min(after, key=lambda a: way.get(after[a], 10**9))

    def _locked(self, place: tuple[int, int] | None) -> bool:
        return place is not None and self.grid.grid.get(*place).is_locked

    def _way(self, place: tuple[int, int], onto: bool) -> dict[State, int]:
        """From each state the actions until the actor stands there, or faces it."""
        ring = [(*place, d) for d in range(4)] if onto else [
            s for d, ((u, v), _) in enumerate(AXES) if self._free(*(s := (place[0] - u, place[1] - v, d))[:2])
        ]  # fmt: skip
        found, steps = dict.fromkeys(ring, 0), 0
        while ring:
            steps += 1
            before = [
                s for x, y, d in ring
                for s in ((x, y, (d + 1) % 4), (x, y, (d - 1) % 4), (x - AXES[d][0][0], y - AXES[d][0][1], d))
                if self._free(*s[:2])
            ]  # fmt: skip
            ring = [s for s in dict.fromkeys(before) if s not in found]
            found |= dict.fromkeys(ring, steps)
        return found

    def _free(self, x: int, y: int) -> bool:
        if not (0 <= x < self.grid.width and 0 <= y < self.grid.height):
            return False
        thing = self.grid.grid.get(x, y)
        return thing is None or (thing.can_overlap() and thing.type != "lava")


def sign(thing: Any) -> str:
    """Of what Minigrid has at a place."""
    if thing is None:
        return "."
    if thing is OUTSIDE:
        return "#"
    return ("/" if thing.is_open else "L" if thing.is_locked else "|") if thing.type == "door" else SIGNS[thing.type]
