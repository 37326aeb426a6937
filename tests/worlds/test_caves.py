"""Caves beside their rules, a cell and a step at a time."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs
from thespis.worlds.caves import EXIT, HELD_OUT, LAVA, MOSS, TRAIN, WALL, Rows, distances, drawn, solvable, tiles

SIZE = 5


def rows_of(rng, n):
    return np.concatenate([rng.choice(4, (n, SIZE**2), p=[0.35, 0.3, 0.2, 0.15]), rng.integers(SIZE**2, size=(n, 2))], 1)


def shortest(level, size):
    """Steps from start to exit of one level, by a queue; None: there is no way."""
    cells, start, out = list(level[:-2]), int(level[-2]), int(level[-1])
    out = (out + 1) % size**2 if out == start else out
    queue, far = deque([start]), {start: 0}
    while queue:
        at = queue.popleft()
        if at == out:
            return far[at]
        y, x = divmod(at, size)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            to = v * size + u
            free = 0 <= v < size and 0 <= u < size and to not in far
            if free and (to == out or cells[to] not in (WALL, LAVA)):
                far[to] = far[at] + 1
                queue.append(to)
    return None


def test_the_way_out_is_as_long_as_a_queue_finds_it():
    levels = rows_of(np.random.default_rng(0), 300)
    wanted = [shortest(level, SIZE) for level in levels]
    grid, start = tiles(levels)
    found = distances(grid)[np.arange(300), start]
    assert found.tolist() == [-1 if far is None else far for far in wanted]
    assert solvable(levels).tolist() == [far is not None for far in wanted]
    assert 50 < solvable(levels).sum() < 250


def test_a_body_moves_sees_and_ends_as_told():
    rng, n, steps = np.random.default_rng(1), 60, 12
    levels = rows_of(rng, n)
    rows = Rows(n, SIZE, view=3, steps=steps)
    seen = rows.reset([0] * n, np.ones(n, bool), levels.astype(np.float32))
    grid, start = tiles(levels)
    at, visits, going = start.copy(), np.zeros((n, SIZE**2)), np.ones(n, bool)
    visits[np.arange(n), start] = 1
    ends = {EXIT: 0, LAVA: 0}
    for t in range(steps + 1):
        for i in np.flatnonzero(going):
            y, x = divmod(int(at[i]), SIZE)
            wanted = []
            for v in (y - 1, y, y + 1):
                for u in (x - 1, x, x + 1):
                    inside = 0 <= v < SIZE and 0 <= u < SIZE
                    kind = grid[i, v * SIZE + u] if inside else WALL
                    wanted += [kind == WALL, kind == MOSS, kind == LAVA, kind == EXIT]
                    wanted.append(min(visits[i, v * SIZE + u] / 4, 1) if inside else 0)
            np.testing.assert_allclose(seen[i], wanted)
        if t == steps:
            break
        action = rng.integers(4, size=n)
        seen, reward, terminated, truncated = rows.step(action, going)
        for i in np.flatnonzero(going):
            y, x = divmod(int(at[i]), SIZE)
            y, x = y + (-1, 0, 1, 0)[action[i]], x + (0, 1, 0, -1)[action[i]]
            if 0 <= y < SIZE and 0 <= x < SIZE and grid[i, y * SIZE + x] != WALL:
                at[i] = y * SIZE + x
            visits[i, at[i]] += 1
            kind = grid[i, at[i]]
            assert reward[i] == pytest.approx(1 - 0.9 * (t + 1) / steps if kind == EXIT else 0)
            assert terminated[i] == (kind in ends)
            assert truncated[i] == (t + 1 == steps)
            if kind in ends:
                ends[kind] += 1
        going &= ~terminated
    assert min(ends.values()) > 3
    assert going.sum() > 3


def test_levels_by_the_law_are_solvable_and_moss_is_near_the_exit_lava_far():
    levels = np.stack([drawn(9, seed, HELD_OUT) for seed in range(150)])
    assert solvable(levels).all()
    grid, start = tiles(levels)
    far = distances(grid)
    far = far / far.max(1, keepdims=True)
    assert far[grid == MOSS].mean() < 0.3 < 0.5 < far[grid == 0].mean()
    assert far[np.arange(150), start].min() > 0.2
    cells = np.arange(81)
    out = (grid == EXIT).argmax(1)[:, None]
    straight = np.abs(cells // 9 - out // 9) + np.abs(cells % 9 - out % 9)
    assert straight[grid == LAVA].mean() > straight[grid == WALL].mean() + 0.5
    train = np.stack([drawn(9, seed, TRAIN) for seed in range(150)])
    assert not (train[:, None] == levels).all(-1).any()  # no level of the data is held out


def test_what_a_level_is_drawn_from_and_that_many_are_what_one_is():
    world = envs.world("thespis/Caves-v0")
    assert (world.spec.context, world.spec.levels, world.spec.horizon) == (83, (4,) * 81 + (81, 81), 60)
    data = world.recorded()
    assert data["contexts"].shape == (32, 83)
    one, few, many = gym.make("thespis/Caves-v0"), gym.make("thespis/Caves-v0", levels=2), envs.vector(world, 3)
    many.reset([7, 8, 9])  # nothing is asked for: by the seed
    assert (many.rows.level == [drawn(9, seed, HELD_OUT) for seed in (7, 8, 9)]).all()
    few.reset(seed=5)
    assert (few.unwrapped.rows.level[0] == data["contexts"][1]).all()
    many.contexts = np.stack([data["contexts"][3], np.zeros(83), data["contexts"][4]]).astype(np.float32)
    many.reset([7, 8, 9])
    assert (many.rows.level == [data["contexts"][3], drawn(9, 8, HELD_OUT), data["contexts"][4]]).all()
    seen, _ = one.reset(seed=8, options={"context": many.contexts[0]})
    np.testing.assert_array_equal(seen, many.obs[0])
    past = np.array([0, 1, 2, 3, 1, 2, 2])
    for action in past:
        obs, reward, terminated, truncated, _ = many.step(np.full(3, action), np.array([True, False, False]))
        seen, *mine = one.step(int(action))[:4]
        np.testing.assert_array_equal(seen, obs[0])
        assert mine == pytest.approx([reward[0], terminated[0], truncated[0]])
        if terminated[0]:
            break
    again, *_ = many.reenact([7, 8, 9], [past[: many.steps[0]], past[:0], past[:0]])
    np.testing.assert_array_equal(again[0], obs[0])
    with pytest.raises(Exception, match="both must be odd"):
        gym.make("thespis/Caves-v0", size=8)
