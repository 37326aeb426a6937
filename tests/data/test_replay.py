"""Replay against a slow model: a list of steps for each environment, walked one transition at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thespis.core import Batch, Box, Discrete, MultiDiscrete, OffPolicy, Spec, leaves
from thespis.data import Replay

GAMMA = 0.9
SPEC = Spec(Box(2), Box(3))


def feed(replay_size: int, n_step: int = 1, batch_size: int = 64) -> OffPolicy:
    return OffPolicy(GAMMA, n_step, batch_size, replay_size, 0, 1.0)


@dataclass
class Stream:
    """Random episodes of several environments. No two observations are equal, so an observation tells its step."""

    num_envs: int
    p_end: float = 0.2
    seed: int = 0
    count: int = 0
    obs: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.obs = [self.new() for _ in range(self.num_envs)]

    def new(self) -> np.ndarray:
        self.count += 1
        return np.array([self.count, self.rng.normal()], np.float32)

    def step(self) -> dict[str, np.ndarray]:
        """What Replay.add is given."""
        n = self.num_envs
        last = [self.new() for _ in range(n)]
        terminated, truncated = self.rng.random((2, n)) < self.p_end / 2  # now and then both
        out = {
            "obs": np.stack(self.obs),
            "action": self.rng.uniform(-1, 1, (n, 3)).astype(np.float32),
            "reward": self.rng.normal(size=n),
            "terminated": terminated,
            "truncated": truncated,
            "last": np.stack(last),
        }
        self.obs = [self.new() if terminated[i] or truncated[i] else last[i] for i in range(n)]
        return out

    def restart(self, env: int) -> None:
        self.obs[env] = self.new()


class Model:
    """Every step ever added, as a list for each environment."""

    def __init__(self, feed: OffPolicy, num_envs: int):
        self.feed, self.length = feed, max(feed.replay_size // num_envs, 1)
        self.steps: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]

    def add(self, **columns: np.ndarray) -> None:
        for i, steps in enumerate(self.steps):
            steps.append({k: v[i] for k, v in columns.items()})

    def cut(self, env: int) -> None:
        if not self.steps[env][-1]["terminated"]:
            self.steps[env][-1]["truncated"] = True

    def rows(self) -> dict[float, tuple[np.ndarray, float, float, np.ndarray]]:
        """What may be sampled, by the number that its observation bears: action, reward, discount, next observation."""
        out = {}
        for steps in self.steps:
            for t in range(max(len(steps) - self.length, 0), len(steps)):
                reward, discount = 0.0, 1.0
                for step in steps[t : t + self.feed.n_step]:
                    reward += discount * step["reward"]
                    discount *= 0.0 if step["terminated"] else GAMMA
                    if step["terminated"] or step["truncated"]:
                        break
                out[float(steps[t]["obs"][0])] = (steps[t]["action"], reward, discount, step["last"])
        return out


def assert_rows(batch: Batch, rows: Mapping[float, tuple[np.ndarray, float, float, np.ndarray]]) -> None:
    for i, number in enumerate(batch.obs[:, 0].tolist()):
        assert number in rows, "a row that is not held"
        action, reward, discount, next_obs = rows[number]
        np.testing.assert_array_equal(batch.action[i], action)
        np.testing.assert_array_equal(batch.next_obs[i], next_obs)
        assert float(batch.reward[i]) == pytest.approx(reward, rel=1e-5, abs=1e-6)
        assert float(batch.discount[i]) == pytest.approx(discount, rel=1e-6)


def assert_equal(a: Batch, b: Batch) -> None:
    for (name, x), y in zip(leaves(a).items(), leaves(b).values(), strict=True):
        assert torch.equal(x, y), name


# ---------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("replay_size", [1, 2, 4, 7, 30, 1000])
@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_every_sample_is_a_row_of_the_model_and_every_row_is_sampled(num_envs: int, n_step: int, replay_size: int) -> None:
    given = feed(replay_size, n_step)
    for seed in range(2):
        replay, model = Replay(SPEC, given, num_envs, seed), Model(given, num_envs)
        stream = Stream(num_envs, (0.1, 0.5)[seed], seed)
        for t in range(40):
            step = stream.step()
            replay.add(**step)
            model.add(**step)
            if t % 11 == 7:  # as where a run is resumed and its environment cannot be
                env = t % num_envs
                replay.cut(env)
                model.cut(env)
                stream.restart(env)
            if t < 8 or t % 8 == 0:
                rows = model.rows()
                assert len(replay) == len(rows) == min(t + 1, model.length) * num_envs
                assert_rows(replay.sample(), rows)
        seen = set()
        for _ in range(max(len(rows) // 3, 2)):  # 20 draws a row: one is missed with probability 1e-7
            batch = replay.sample()
            assert_rows(batch, model.rows())
            seen |= set(batch.obs[:, 0].tolist())
        assert seen == set(model.rows())


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [10, 25])  # before and after the ring is full
def test_rows_are_sampled_uniformly(num_envs: int, steps: int) -> None:
    replay, stream = Replay(SPEC, feed(15 * num_envs, 3, 20_000), num_envs), Stream(num_envs)
    for _ in range(steps):
        replay.add(**stream.step())
    counts = np.unique(replay.sample().obs[:, 0].numpy(), return_counts=True)[1]
    free = len(replay) - 1
    assert len(counts) == free + 1
    chi2 = ((counts - 20_000 / len(replay)) ** 2).sum() / (20_000 / len(replay))
    assert free - 4 * (2 * free) ** 0.5 < chi2 < free + 4 * (2 * free) ** 0.5  # its mean and four of its standard deviations


def one_episode(terminated: bool, n_step: int) -> Batch:
    """Three steps of reward 1, 2, 4 with next observations 1, 2, 3; then one step of the next episode, from 10 to 11."""
    replay = Replay(Spec(Box(1), Box(1)), feed(100, n_step))
    for t, reward in enumerate((1.0, 2.0, 4.0)):
        end = np.array([t == 2])
        no, obs, last = np.array([False]), np.full((1, 1), t, np.float32), np.full((1, 1), t + 1, np.float32)
        replay.add(obs, np.zeros((1, 1), np.float32), np.array([reward]), *((end, no) if terminated else (no, end)), last)
    obs, last = np.full((1, 1), 10, np.float32), np.full((1, 1), 11, np.float32)
    replay.add(obs, np.zeros((1, 1), np.float32), np.array([8.0]), no, no, last)
    return replay.sample()


@pytest.mark.parametrize(
    ("n_step", "obs", "reward", "discount", "next_obs"),
    [
        (1, 0, 1, 0.9, 1),
        (1, 2, 4, 0.9, 3),
        (1, 10, 8, 0.9, 11),
        (2, 0, 1 + 0.9 * 2, 0.81, 2),
        (2, 1, 2 + 0.9 * 4, 0.81, 3),
        (2, 2, 4, 0.9, 3),  # the window stops at the episode's end
        (3, 0, 1 + 0.9 * 2 + 0.81 * 4, 0.729, 3),
        (5, 0, 1 + 0.9 * 2 + 0.81 * 4, 0.729, 3),
        (5, 10, 8, 0.9, 11),  # and at the newest step
    ],
)
@pytest.mark.parametrize("terminated", [False, True])
def test_known_windows(terminated: bool, n_step: int, obs: float, reward: float, discount: float, next_obs: float) -> None:
    """A time limit bootstraps with gamma^n, a true end with 0."""
    batch = one_episode(terminated, n_step)
    at = (batch.obs[:, 0] == obs).nonzero()[0]
    reaches_end = obs + n_step >= 3 and obs < 10
    assert float(batch.reward[at]) == pytest.approx(reward)
    assert float(batch.discount[at]) == pytest.approx(0 if terminated and reaches_end else discount)
    assert float(batch.next_obs[at, 0]) == next_obs


@pytest.mark.parametrize(("action", "shape"), [(Discrete(5), ()), (MultiDiscrete((2, 3, 4)), (3,)), (Box(4), (4,))])
def test_actions_come_back_as_they_went_in(action: Any, shape: tuple[int, ...]) -> None:
    replay, rng = Replay(Spec(Box(1), action), feed(20)), np.random.default_rng(0)
    given = [
        rng.normal(size=(1, *shape)).astype(np.float32) if isinstance(action, Box) else rng.integers(2, size=(1, *shape))
        for _ in range(9)
    ]
    for t, a in enumerate(given):
        no, obs = np.array([False]), np.full((1, 1), t, np.float32)
        replay.add(obs, a, np.zeros(1), no, no, obs + 1)
    batch = replay.sample()
    assert batch.action.shape == (64, *shape)
    assert batch.action.dtype == (torch.float32 if isinstance(action, Box) else torch.int64)
    for obs, got in zip(batch.obs[:, 0].long().tolist(), batch.action, strict=True):
        np.testing.assert_array_equal(got, given[obs][0])


def test_replay_keeps_copies_and_gives_copies() -> None:
    replay, model, stream = Replay(SPEC, feed(10)), Model(feed(10), 1), Stream(1)
    for _ in range(5):
        step = stream.step()
        model.add(**{k: v.copy() for k, v in step.items()})
        replay.add(**step)
        for x in step.values():
            x[:] = 1  # as an environment that writes into the same arrays again
        stream.obs = [x.copy() for x in model.steps[0][-1]["last"][None]]
        if model.steps[0][-1]["terminated"] or model.steps[0][-1]["truncated"]:
            stream.restart(0)
    part = replay.segment(0, 5)
    for x in (*leaves(replay.sample()).values(), *part.values()):
        x.zero_()
    assert_rows(replay.sample(), model.rows())


def test_one_seed_is_one_stream_of_samples() -> None:
    same, other = [], []
    for seed, out in ((1, same), (1, same), (2, other)):
        replay, stream = Replay(SPEC, feed(50), 1, seed), Stream(1)
        for _ in range(30):
            replay.add(**stream.step())
        torch.rand(7)  # of torch's own generator it takes nothing
        out.append(replay.sample())
    assert_equal(*same)
    assert not torch.equal(same[0].obs, other[0].obs)


# ------------------------------------------------------------------------------------------------------------- to and fro

Parts = list[tuple[int, dict[str, Tensor]]]


def loaded(given: OffPolicy, num_envs: int, parts: Parts, live: Replay, stop: int | None = None) -> Replay:
    """A new replay filled from `parts`, with the generator where that of `live` is."""
    replay = Replay(SPEC, given, num_envs, seed=99)
    replay.load(parts, live.steps if stop is None else stop)
    replay.rng.set_state(live.rng.get_state())
    return replay


@pytest.mark.parametrize("replay_size", [1, 3, 5, 12, 300])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_stopped_loaded_and_continued_equals_never_stopped(seed: int, num_envs: int, replay_size: int) -> None:
    given = feed(replay_size, n_step=3, batch_size=16)
    live, stream = Replay(SPEC, given, num_envs), Stream(num_envs, (0.05, 0.3, 0.8)[seed], seed)
    model, rng = Model(given, num_envs), np.random.default_rng(seed)
    parts: Parts = []
    saved, copies = 0, []
    for _ in range(60):
        step = stream.step()
        live.add(**step)
        model.add(**step)
        for copy in copies:
            copy.add(**step)
        if rng.random() < 0.3:  # a checkpoint: only what is not on disk yet, and still held, is written
            start = max(saved, live.oldest())
            parts, saved = [*parts, (start, live.segment(start, live.steps))], live.steps
            kept = parts if seed else [p for p in parts if p[0] + len(p[1]["ended"]) // num_envs > live.oldest()]
            copies = [*copies[-2:], loaded(given, num_envs, kept, live)]
            assert copies[-1].steps == live.steps
            assert len(copies[-1]) == len(live)
        wanted = live.sample()
        assert_rows(wanted, model.rows())
        for copy in copies:
            assert_equal(copy.sample(), wanted)
    assert copies


@pytest.mark.parametrize("action", [Box(3), Discrete(4)])
@pytest.mark.parametrize(("num_envs", "n_step", "replay_size"), [(1, 1, 300), (3, 3, 30), (2, 2, 8)])
def test_on_a_device_it_is_the_same(action: Any, num_envs: int, n_step: int, replay_size: int) -> None:
    """Bit for bit, on disk too. "cpu:0" stands in for a device: its rows are tensors."""
    spec, needs = Spec(Box(2), action), frozenset({"previous"})
    stream, rng = Stream(num_envs), np.random.default_rng(0)
    host, device = (Replay(spec, feed(replay_size, n_step, 16), num_envs, 5, needs, device=name) for name in ("cpu", "cpu:0"))
    assert isinstance(device.obs[np.zeros(1, np.int64)], Tensor)
    for t in range(50):
        step = stream.step()
        if isinstance(action, Discrete):
            step["action"] = rng.integers(4, size=num_envs)
        for replay in (host, device):
            replay.add(**step)
            if t % 20 == 10:
                replay.cut(t % num_envs)
        a, b = leaves(host.sample()), leaves(device.sample())
        assert {k: (x.shape, x.dtype) for k, x in a.items()} == {k: (x.shape, x.dtype) for k, x in b.items()}
        assert all(torch.equal(a[k], b[k]) for k in a)
    parts = [replay.segment(replay.oldest(), replay.steps) for replay in (host, device)]
    assert all(torch.equal(parts[0][k], parts[1][k]) for k in parts[0])
    again = Replay(spec, device.feed, num_envs, needs=needs, device="cpu:0")
    again.load([(host.oldest(), parts[0])], host.steps)
    again.rng.set_state(host.rng.get_state())
    a, b = leaves(host.sample()), leaves(again.sample())
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("length", [4, 9, 50])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_load_up_to_an_earlier_step_is_the_replay_of_that_step(num_envs: int, length: int) -> None:
    """Experience may reach further than the checkpoint that is taken."""
    given = feed(length * num_envs, n_step=2)
    for stop in range(1, 30):
        stream, whole, early = Stream(num_envs), Replay(SPEC, feed(100 * num_envs), num_envs), Replay(SPEC, given, num_envs)
        for t in range(30):
            step = stream.step()
            whole.add(**step)
            if t < stop:
                early.add(**step)
        parts = [(a, whole.segment(a, b)) for a, b in ((0, 7), (7, 8), (8, 20), (20, 30))]
        copy = loaded(given, num_envs, parts, early, stop)
        assert (copy.steps, len(copy)) == (early.steps, len(early))
        assert_equal(copy.sample(), early.sample())


@pytest.mark.parametrize("length", [3, 4, 6, 50])
@pytest.mark.parametrize("ends", [False, True])
def test_load_finds_where_a_resumed_run_began_another_episode(length: int, ends: bool) -> None:
    """The first run's experience is on disk, unended, when the second finds that it cannot go on from there."""
    given = feed(length * 3, n_step=4)
    live, model, stream = Replay(SPEC, given, 3), Model(given, 3), Stream(3, 0.0)
    parts: Parts = []
    for t in range(12):
        if t == 7:
            start = max(live.oldest(), 0)
            parts.append((start, live.segment(start, 7)))
            for replay in (live, model):
                replay.cut(1)
            stream.restart(1)
            assert_rows(live.sample(), model.rows())
        step = stream.step()
        if ends and t == 6:  # an episode that had ended anyhow is not ended twice
            step["terminated"][1] = True
            stream.restart(1)
        live.add(**step)
        model.add(**step)
        if t >= 7:
            again = [*parts, (max(7, live.oldest()), live.segment(max(7, live.oldest()), live.steps))]
            copy = loaded(given, 3, again, live)
            wanted = live.sample()
            assert_rows(wanted, model.rows())
            assert_equal(copy.sample(), wanted)


def test_load_finds_a_cut_that_no_observation_shows() -> None:
    """The new episode begins with the observation that the old one had reached."""
    live, copy = (Replay(SPEC, feed(20, n_step=3), 2, seed=1) for _ in range(2))
    stream = Stream(2, 0.0)
    steps = [stream.step() for _ in range(6)]
    for step in steps[:3]:
        live.add(**step)
    first = live.segment(0, 3)
    live.cut(1)
    for step in steps[3:]:
        live.add(**step)
    copy.load([(0, first), (3, live.segment(3, 6))], 6)
    assert np.flatnonzero(copy.ended).tolist() == [2 * 2 + 1]
    assert_equal(copy.sample(), live.sample())


def test_cut_is_a_time_limit_once() -> None:
    replay = Replay(SPEC, feed(10))
    replay.cut(0)  # nothing yet, nothing to end
    stream = Stream(1, 0.0)
    step = stream.step()
    replay.add(**step)
    for _ in range(3):
        replay.cut(0)
    assert int(replay.ended.sum()) == 1
    stream.restart(0)
    replay.add(**stream.step())
    batch = replay.sample()
    first = batch.obs[:, 0] == float(step["obs"][0, 0])
    torch.testing.assert_close(batch.discount, torch.full((64,), GAMMA))
    np.testing.assert_array_equal(batch.next_obs[first][0], step["last"][0])


# ----------------------------------------------------------------------------------------------------------------- memory


def nbytes(replay: Replay) -> int:
    return sum(x.nbytes for x in vars(replay).values() if isinstance(x, np.ndarray))


def test_a_million_halfcheetah_steps_fit_in_150_megabytes() -> None:
    replay = Replay(Spec(Box(17), Box(6)), feed(1_000_000))
    assert 95e6 < nbytes(replay) < 105e6
    row, no = np.zeros((1, 17), np.float32), np.array([False])
    for _ in range(1000):  # as many episodes as a million steps of HalfCheetah are
        replay.add(row, np.zeros((1, 6), np.float32), np.zeros(1), no, ~no, row)
    assert nbytes(replay) < 150e6


@pytest.mark.parametrize("p_end", [0.5, 1.9])
def test_last_observations_are_given_back_when_their_rows_go(p_end: float) -> None:
    """Thousands of short episodes in a short ring: room for the last observations stays that of the rows held."""
    replay, stream = Replay(SPEC, feed(60), 3), Stream(3, p_end)
    for t in range(3000):
        replay.add(**stream.step())
        if t % 500 == 0:
            replay.cut(t % 3)
            stream.restart(t % 3)
    used = replay.final_at[replay.ended].tolist()
    assert len(replay.finals) <= 2 * len(replay.obs)
    assert sorted(used + replay.free) == list(range(len(replay.finals)))  # each place once: in use or free


# ------------------------------------------------------------------------------------------------------- extra columns


@pytest.mark.parametrize(("num_envs", "replay_size", "steps"), [(1, 1000, 300), (3, 1000, 100), (2, 50, 90)])
def test_the_action_before(num_envs: int, replay_size: int, steps: int) -> None:
    """Zeros at an episode's start and for the oldest row held, whose past is gone."""
    stream, replay = Stream(num_envs), Replay(SPEC, feed(replay_size), num_envs, needs=frozenset({"previous"}))
    wanted, past = {}, np.zeros((num_envs, 3), np.float32)
    for t in range(steps):
        step = stream.step()
        replay.add(**step)
        for i in range(num_envs):
            wanted[step["obs"][i, 0]] = np.zeros(3) if t == max(steps - replay.length, 0) else past[i].copy()
        past = step["action"] * ~(step["terminated"] | step["truncated"])[:, None]
    seen = set()
    for _ in range(30):
        batch = replay.sample()
        for obs, previous in zip(batch.obs[:, 0].tolist(), batch.extra["previous"].numpy(), strict=True):
            np.testing.assert_array_equal(previous, wanted[obs])
            seen.add(obs)
    assert len(seen) > 0.9 * len(replay)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_scale_of_returns_so_far(num_envs: int) -> None:
    """Against every discounted return so far kept in a list; saved and restored it goes on the same."""
    needs = frozenset({"return_scale"})
    stream, replay = Stream(num_envs), Replay(SPEC, feed(1000), num_envs, needs=needs)
    so_far, now = [], np.zeros(num_envs)
    for t in range(200):
        step = stream.step()
        replay.add(**step)
        now = GAMMA * now + step["reward"]
        so_far += now.tolist()
        now = now * ~(step["terminated"] | step["truncated"])
        if t % 9 == 0:
            replay.cut(0)
            now[0] = 0
        if t == 100:
            saved = {k: v.clone() for k, v in replay.save().items()}
            replay = Replay(SPEC, feed(1000), num_envs, needs=needs)
            replay.restore(saved)
    extra = replay.sample().extra
    assert {k: v.shape for k, v in extra.items()} == {"return_std": (64,), "return_max": (64,)}
    assert extra["return_std"].unique().tolist() == pytest.approx([np.std(so_far)], rel=1e-6)
    assert extra["return_max"].unique().tolist() == pytest.approx([np.abs(so_far).max()], rel=1e-6)


def test_needs_that_nothing_gives_are_told() -> None:
    assert Replay(SPEC, feed(10)).save() == {}
    with pytest.raises(ValueError, match="weather"):
        Replay(SPEC, feed(10), needs=frozenset({"weather"}))
