"""Edge computing against a processor that is simulated event by event, on its own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs
from thespis.worlds.edge import SLOTS, STEPS, Servers, served


def finished(arrivals: list[tuple[float, float]], speed: float) -> list[float]:
    """When each of the tasks (time, Mbit) is done on one shared processor: from event to event."""
    left, done, now = {}, [0.0] * len(arrivals), 0.0
    ahead = sorted(range(len(arrivals)), key=lambda i: arrivals[i][0])
    while left or ahead:
        next_end = now + min(left.values()) * len(left) / speed if left else np.inf
        then = min(next_end, arrivals[ahead[0]][0] if ahead else np.inf)
        for i in left:
            left[i] -= (then - now) * speed / len(left)
        now = then
        for i in [i for i, x in left.items() if x < 1e-9]:
            done[i] = now
            del left[i]
        while ahead and arrivals[ahead[0]][0] <= now:
            i = ahead.pop(0)
            left[i] = arrivals[i][1]
    return done


def test_a_shared_processor_at_any_time() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        tasks, speed, seconds = np.sort(rng.exponential(3, 6)), rng.uniform(1, 4), rng.uniform(0, 6)
        got = served(np.concatenate([np.zeros(2), tasks]), np.array(speed), np.array(seconds))
        left, now = tasks.copy(), 0.0
        while now < seconds and left.any():  # who has least is done first
            span = min(left[left > 0].min() * (left > 0).sum() / speed, seconds - now)
            left = np.where(left > 0, left - span * speed / max((left > 0).sum(), 1), 0)
            left[left < 1e-12], now = 0, now + span
        np.testing.assert_allclose(got, [0, 0, *left], atol=1e-9)


def test_rewards_are_what_a_task_adds_to_all_delays_and_sum_up_to_these() -> None:
    """Each reward: the summed delays with and without the task, by brute force; their sum: the delays of all, to the last end."""
    n, rng = 6, np.random.default_rng(1)
    world = Servers(n, (2, SLOTS))
    world.reset(range(n))
    sent: list[list[list[tuple[float, float, float]]]] = [[[] for _ in range(1 + SLOTS)] for _ in range(n)]
    total = np.zeros(n)

    def delays(tasks: list[tuple[float, float, float]], ghz: float) -> float:
        ends = finished([(start, size) for start, size, _ in tasks], ghz)
        return sum(end - asked for end, (_, _, asked) in zip(ends, tasks, strict=True))

    for t in range(STEPS):
        action = rng.integers(1 + SLOTS, size=n)
        costs = world.costs()
        size, users = world.sizes[:, t], world.users[:, t]
        _, reward = world.step(action)
        total += reward[:, 0]
        for i in range(n):
            place = int(action[i]) if world.there[i, action[i]] else 0
            np.testing.assert_allclose(reward[i], -costs[i, place], rtol=1e-12)
            if size[i] == 0:
                assert reward[i].tolist() == [0, 0]
                continue
            ghz, link = world.ghz[i, place], world.rates[i, users[i], place]
            before, task = sent[i][place], (t + size[i] / link, size[i], t)
            if t % 7 == 0 and i < 3:
                assert -reward[i, 0] == pytest.approx(delays([*before, task], ghz) - delays(before, ghz), rel=1e-9, abs=1e-9)
            assert -reward[i, 1] == pytest.approx(0.01 * size[i] / link + 5e-31 * 1000 * (ghz * 1e9) ** 2 * size[i] * 1e6)
            before.append(task)
    whole = [sum(delays(tasks, world.ghz[i, s]) for s, tasks in enumerate(sent[i])) for i in range(n)]
    np.testing.assert_allclose(-total, whole, rtol=1e-9)


def test_what_is_seen() -> None:
    world = Servers(3, (2, 2))
    world.reset([4, 5, 6])
    for _ in range(30):
        obs, _ = world.step(np.zeros(3, int))
    rows = obs.reshape(3, 1 + SLOTS, -1)
    assert (rows[~world.there] == -1).all()
    assert world.there.sum(-1).tolist() == [3, 3, 3]
    for i in range(3):
        cloud, left = rows[i, 0], [x for x in world.left[i, 0] if x > 0]
        assert cloud[:3] == pytest.approx([1, world.ghz[i, 0], 2])
        assert cloud[3:6] == pytest.approx(
            [world.sizes[i, 30] / 10, float(world.sizes[i, 30] > 0), world.rates[i, world.users[i, 30], 0] / 100]
        )
        assert cloud[6] == pytest.approx(len(left) / 10)
        assert cloud[7:].tolist() == np.histogram(np.minimum(left, 39), np.arange(0, 41, 2))[0].tolist()
    one, two = (gym.make("thespis/EdgeComputing-v0", edges=2).unwrapped for _ in range(2))
    assert np.array_equal(one.reset(seed=4)[0], two.reset(seed=4)[0])
    while not one.servers.sizes[0, one.servers.t]:
        one.step(1)
    costs = one.servers.costs()[0, 0]
    np.testing.assert_allclose(one.step(0)[1], -costs / [20, 0.05])


def test_load_sizes_and_links_are_as_told() -> None:
    world = Servers(300)
    world.reset(range(300))
    assert (world.sizes > 0).mean() == pytest.approx(0.92, abs=0.02)  # a line that as many come to as leave
    assert world.sizes[world.sizes > 0].mean() == pytest.approx(12, rel=0.03)
    assert (world.sizes.max(), world.rates.min()) == (100, 100)
    assert ((world.ghz[:, 0] > 3.5) & (world.ghz[:, 0] < 4.5)).all()
    assert len({row.tobytes() for row in Servers(40, (2, 2)).reset(range(40))}) == 40
    assert envs.world("thespis/EdgeComputing-v0").spec.rewards == ("delay", "energy")


def test_a_number_of_servers_out_of_range_is_told() -> None:
    with pytest.raises(ValueError, match="edges is 5; allowed: a number from 0 to 4"):
        gym.make("thespis/EdgeComputing-v0", edges=5)
