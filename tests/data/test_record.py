"""Datasets that runs write: Minari reads them, they hold what was lived, and what is in them is told right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis import cli, envs
from thespis.core import Fault
from thespis.data import dataset, minari
from thespis.record import inspect, record

h5py = pytest.importorskip("h5py")
TINY = {"hidden": (8,), "batch_size": 16, "warmup": 30, "eval_episodes": 1, "compile_after": -1, "sinks": (), "panel": False}


def read(place: Any, env: gym.Env) -> dataset.Dataset:
    return dataset.read(place, env.observation_space, env.action_space, envs.spaces.flatten, envs.spaces.unscale_action)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "sac"
    return thespis.train("sac", "Pendulum-v1", out=out, steps=450, num_envs=2, checkpoint_every=200, **TINY).path


def test_a_policys_episodes_are_those_of_the_environment(run: Path, tmp_path: Path) -> None:
    made = record(run, tmp_path / "set", episodes=2)
    data, env, policy = read(made.path, gym.make("Pendulum-v1")), gym.make("Pendulum-v1"), thespis.load(run)
    assert (made.episodes, made.steps, data.lengths.tolist()) == (2, 400, [200, 200])
    with h5py.File(made.path / "data/main_data.hdf5") as file:
        for i in range(2):
            obs, _ = env.reset(seed=int(file[f"episode_{i}"].attrs["seed"]))
            total = 0.0
            for t in range(200):
                np.testing.assert_array_equal(data.obs[200 * i + t], obs)
                obs, reward, *_ = env.step(policy.act(obs))
                total += float(reward)
            np.testing.assert_array_equal(data.last[i], obs)
            assert data.returns()[i] == pytest.approx(total, rel=1e-5)
    again = record(run, tmp_path / "again", episodes=2)
    assert read(again.path, env).digest() == data.digest()
    other = record(run, tmp_path / "other", episodes=2, seed=7)
    assert read(other.path, env).digest() != data.digest()
    about = json.loads((made.path / "data/metadata.json").read_text())
    assert about["description"] == "the last policy of sac on Pendulum-v1, seed 0, noise 0, seed 2000000"


def test_minari_reads_what_is_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    record(run, tmp_path / "pendulum/own-v0", episodes=2, noise=0.3)
    found = theirs.load_dataset("pendulum/own-v0")
    assert (found.total_episodes, found.total_steps) == (2, 400)
    assert found.env_spec.id == "Pendulum-v1"
    assert found[1].observations.shape == (201, 3)
    assert found[1].truncations[-1]
    assert dataset.origin("pendulum/own-v0").env == "Pendulum-v1"


def test_noise_is_as_wide_as_told_and_random_is_uniform(run: Path, tmp_path: Path) -> None:
    env = gym.make("Pendulum-v1")
    plain, noisy = (read(record(run, tmp_path / str(s), episodes=1, noise=s).path, env) for s in (0.0, 0.2))
    policy = thespis.load(run)
    mean = [policy.act(o) / 2 for o in noisy.obs]
    inside = np.abs(noisy.action) < 1
    assert float((noisy.action - mean)[inside].std()) == pytest.approx(0.2, rel=0.2)
    assert np.abs(plain.action - [policy.act(o) / 2 for o in plain.obs]).max() < 1e-5
    uniform = read(record(run, tmp_path / "random", episodes=5, which="random").path, env).action
    assert (float(uniform.mean()), float(uniform.std())) == (pytest.approx(0, abs=0.06), pytest.approx(3**-0.5, rel=0.05))


def test_all_that_a_run_has_seen(run: Path, tmp_path: Path) -> None:
    """450 steps of two environments: an episode each of 200, and what has begun since. They follow from seeds and actions."""
    made = record(run, tmp_path / "set", replay=True)
    env = gym.make("Pendulum-v1")
    data = read(made.path, env)
    assert (made.steps, data.lengths.tolist()) == (450, [200, 25, 200, 25])
    assert made.return_mean == pytest.approx(data.returns().mean(), rel=1e-5)
    first = np.cumsum(data.lengths) - data.lengths
    for i, (begin, length) in enumerate(zip(first, data.lengths, strict=True)):
        start = data.obs[begin]
        env.reset(seed=0)
        env.unwrapped.state = np.array([np.arctan2(start[1], start[0]), start[2]], np.float64)
        for t in range(begin, begin + 20):  # float32 observations do not tell a state to the bit
            obs, reward, *_ = env.step(2 * data.action[t])
            np.testing.assert_allclose(obs, data.obs[t + 1] if t + 1 < begin + length else data.last[i], atol=2e-3)
            assert float(reward) == pytest.approx(float(data.reward[t]), abs=2e-2)


def test_a_run_on_the_data_that_another_made(run: Path, tmp_path: Path) -> None:
    made = record(run, tmp_path / "set", replay=True)
    tiny = {k: v for k, v in TINY.items() if k != "warmup"}
    result = thespis.train("td3_bc", data=made.path, out=tmp_path / "run", steps=30, **tiny)
    assert result.return_mean is not None  # the dataset names its environment
    with pytest.raises(Fault, match="keeps nothing of what it has seen"):
        record(result, tmp_path / "no", replay=True)
    with pytest.raises(Fault, match="exists; give another"):
        record(result, made.path)
    with pytest.raises(Fault, match=r"^noise is -1.0; allowed: a number 0 or more$"):
        record(result, tmp_path / "no", noise=-1)
    assert not (tmp_path / "no").exists()


class Parts(gym.Env):
    observation_space: Any = spaces.Dict(
        {"eye": spaces.Box(0, 255, (2, 3), np.uint8), "at": spaces.Tuple((spaces.Discrete(3, start=4),))}
    )
    action_space: Any = spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def look(self):
        eye = self.np_random.integers(0, 256, (2, 3)).astype(np.uint8)
        return {"eye": eye, "at": (np.int64(4 + self.t % 3),)}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.look(), 1.0, self.t == 6, False, {}


def test_parts_and_choices(tmp_path: Path) -> None:
    run = thespis.train("sac_discrete", Parts, out=tmp_path / "run", steps=40, **TINY)
    played = read(record(run, tmp_path / "played", episodes=3, noise=0.5, env=Parts).path, Parts())
    seen = read(record(run, tmp_path / "seen", replay=True, env=Parts).path, Parts())
    assert played.lengths.tolist() == [6, 6, 6]
    assert seen.lengths.tolist() == [6] * 6 + [4]
    for data in (played, seen):
        assert data.obs[:6, :3].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]  # the parts of a Dict stand in the order of their names
        assert data.terminated.sum() == len(data.lengths) - (data is seen)
    assert set(played.action.tolist()) == {0, 1, 2}


class Tools(Parts):
    """An action of parts, of which a mask forbids one; a forbidden one is a fault."""

    observation_space = spaces.Box(0, 6, (1,), np.float32)
    action_space = spaces.Dict({"tool": spaces.Discrete(3, start=5), "aim": spaces.Box(0, 4, (2,), np.float64)})

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, self.info()

    def look(self):
        return np.full(1, self.t, np.float32)

    def info(self):
        return {"action_mask": (np.arange(3) != self.t % 3).astype(np.int8)}

    def step(self, action):
        assert action["tool"] - 5 != self.t % 3, "a forbidden tool"
        obs, reward, *flags, _ = super().step(action)
        return obs, reward, *flags, self.info()


def test_actions_of_parts_and_their_masks(tmp_path: Path) -> None:
    run = thespis.train("hybrid_sac", Tools, out=tmp_path / "run", steps=40, **TINY)
    world = envs.world(Tools)
    for options in {"episodes": 3, "noise": 0.5}, {"replay": True}, {"episodes": 3, "which": "random"}:
        place = record(run, tmp_path / "-".join(map(str, options)), env=Tools, **options).path
        data = dataset.read(place, world.observation_space, Tools.action_space, envs.spaces.flatten, envs.spaces.unscale_action)
        assert data.obs.shape[1] == 4
        assert data.obs[:6, 0].tolist() == [0, 1, 2, 3, 4, 5]
        aim, tool = data.action[:, :2], data.action[:, 2].astype(int)
        assert np.abs(aim).max() <= 1
        assert len(set(aim[:, 0].tolist())) > 5
        assert data.obs[np.arange(len(tool)), 1 + tool].all(), "a forbidden tool was taken"


@pytest.mark.parametrize("space", [Parts.observation_space, spaces.MultiDiscrete([[2, 3], [4, 2]]), spaces.MultiBinary((2, 2))])
def test_what_was_flattened_is_unflattened(space: spaces.Space[Any]) -> None:
    space.seed(0)
    values = [space.sample() for _ in range(4)]
    rows = envs.spaces.unflatten(space, np.stack([envs.spaces.flatten(space, v) for v in values]))
    stored = {"eye": rows["eye"], "at": {"_index_0": rows["at"][0]}} if isinstance(rows, dict) else rows
    again = minari.rows(stored, space, envs.spaces.flatten)
    np.testing.assert_array_equal(again, [envs.spaces.flatten(space, v) for v in values])


def test_what_is_in_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs = np.stack([np.linspace(0, 1, 64).repeat(2), np.tile([0.0, 1.0], 64)], 1)
    columns = {"observations": obs, "actions": np.tile([1.0, -0.5], 64)[:, None], "rewards": np.ones(128),
               "terminals": np.arange(128) % 32 == 31, "next_observations": np.roll(obs, -1, 0)}  # fmt: skip
    np.savez(tmp_path / "log.npz", **columns)
    found = inspect(tmp_path / "log.npz", out=tmp_path / "log.png")
    assert (found["episodes"], found["steps"], found["terminated"], found["at_bounds"]) == (4, 128, 1.0, 0.5)
    assert found["return"] == dict.fromkeys(("mean", "min", "q1", "median", "q3", "max"), 32.0) | {"std": 0.0}
    assert found["action"][0]["mean"] == 0.25
    assert 32 / 32**2 <= found["coverage"] <= 128 / 32**2  # two lines through the plane
    assert found["distinct_observations"] == 128
    assert (tmp_path / "log.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["data", str(tmp_path / "log.npz"), "--out", str(tmp_path / "b.png")]) == 0
    said = capsys.readouterr().out
    assert "4 episodes, 128 steps; 100% terminated, 0% cut off" in said
    assert cli.main(["data", str(tmp_path / "nothing.npz")]) == 2
