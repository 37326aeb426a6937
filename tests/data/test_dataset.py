"""Datasets that Minari wrote, beside what a live environment shows; what is drawn from them; every way to be damaged."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis import cli, envs
from thespis.core import Box, Fault, OffPolicy, Spec
from thespis.data import Dataset, Demonstrations, Replay, dataset
from thespis.data import minari as minari_format
from thespis.data.demonstrations import between
from thespis.engine import checkpoint, compile, loop

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # that author, description, ... are missing
h5py = pytest.importorskip("h5py")
minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402


class Mixed(gym.Env):
    """Parts of every kind, and choices that do not count from 0."""

    observation_space = spaces.Dict(
        {
            "look": spaces.Box(0, 255, (2, 2), np.uint8),
            "where": spaces.Tuple((spaces.Discrete(3, start=-1), spaces.MultiBinary(2))),
            "which": spaces.MultiDiscrete([2, 3]),
        }
    )
    action_space: spaces.Space[Any] = spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(self.t), self.t == 4, False, {}


class Several(Mixed):
    action_space = spaces.MultiDiscrete([2, 4], start=[1, -2])


def played(env: gym.Env, episodes: int, steps: int = 1000) -> list[EpisodeBuffer]:
    """Random episodes, cut off after `steps`."""
    env.action_space.seed(0)
    out = []
    for seed in range(episodes):
        obs, acts, rewards, terminated, truncated = [env.reset(seed=seed)[0]], [], [], [], []
        while not rewards or not (terminated[-1] or truncated[-1] or len(rewards) == steps):
            acts.append(env.action_space.sample())
            for column, value in zip((obs, rewards, terminated, truncated), env.step(acts[-1])[:4], strict=True):
                column.append(value)
        out.append(EpisodeBuffer(None, seed, None, stacked(obs), stacked(acts), rewards, terminated, truncated))
    return out


def stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {k: stacked([v[k] for v in values]) for k in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked([v[i] for v in values]) for i in range(len(values[0])))
    return [np.asarray(v) for v in values]


def read(name: str | Path, env: gym.Env) -> Dataset:
    return dataset.read(str(name), env.observation_space, env.action_space, envs.spaces.flatten, envs.spaces.unscale_action)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minari's folder, with a dataset of Pendulum's: three whole episodes and one that was cut off."""
    place = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(place))
        env = gym.make("Pendulum-v1")
        minari.create_dataset_from_buffers("pendulum/random-v0", [*played(env, 3), *played(env, 1, 50)], env="Pendulum-v1")
    return place


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(root / "pendulum/random-v0", tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------------------ what is read


def live(env: gym.Env, episodes: list[EpisodeBuffer]) -> dict[str, np.ndarray]:
    """The same episodes through what a run puts round an environment."""
    flat, out = envs.Flat(env, "live"), {k: [] for k in ("obs", "action", "reward", "terminated", "last")}
    for episode in episodes:
        obs = flat.reset(seed=episode.seed)[0]
        for t in range(len(episode.rewards)):
            raw = np.asarray(episode.actions[t])
            if isinstance(env.action_space, spaces.Box):
                action = envs.spaces.unscale_action(env.action_space, raw)
            else:
                action = raw - env.action_space.start
            out["obs"].append(obs)
            obs, reward, terminated, _, _ = flat.step(action)
            for key, value in (("action", action), ("reward", np.float32(reward)), ("terminated", terminated)):
                out[key].append(value)
        out["last"].append(obs)
    return {k: np.stack(v) for k, v in out.items()}


@pytest.mark.parametrize("make", [lambda: gym.make("Hopper-v5"), Mixed, Several], ids=["Hopper", "Mixed", "Several"])
def test_what_is_read_is_what_a_live_environment_shows(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = make()
    episodes = played(env, 5)
    kinds = {"observation_space": env.observation_space, "action_space": env.action_space}
    minari.create_dataset_from_buffers("x-v0", episodes, **kinds, jpeg_encoding=False)
    found, wanted = read("x-v0", make()), live(make(), episodes)
    for name, column in wanted.items():
        np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)
    assert found.lengths.tolist() == [len(e.rewards) for e in episodes]
    np.testing.assert_allclose(found.returns(), [sum(e.rewards) for e in episodes], rtol=1e-6)
    assert found.obs.dtype == found.reward.dtype == np.float32


def test_a_dataset_that_is_packed(copy: Path) -> None:
    wanted = read(copy, gym.make("Pendulum-v1")).digest()
    for name, options in {"observations": {"compression": "gzip", "shuffle": True}, "rewards": {"compression": "lzf"}}.items():
        with h5py.File(copy / "data/main_data.hdf5", "a") as file:
            column = file[f"episode_1/{name}"][()]
            del file[f"episode_1/{name}"]
            file.create_dataset(f"episode_1/{name}", data=column, fletcher32=True, **options)
        assert read(copy, gym.make("Pendulum-v1")).digest() == wanted


def test_the_same_dataset_by_id_and_by_folder(root: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("Pendulum-v1")
    by_id = read("pendulum/random-v0", env)
    assert by_id.lengths.tolist() == [200, 200, 200, 50]
    monkeypatch.chdir(copy.parent)
    for name in (copy, copy / "data", "copy", root / "pendulum/random-v0"):
        assert read(name, env).digest() == by_id.digest()
    with h5py.File(copy / "data/main_data.hdf5", "a") as file:
        file["episode_2/rewards"][7] += 1e-3
    assert read(copy, env).digest() != by_id.digest()


# ------------------------------------------------------------------------------------------------------- what is refused


def overwrite(episode: str, **columns: Any) -> Any:
    def damage(folder: Path) -> None:
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            for name, change in columns.items():
                value = change(file[f"{episode}/{name}"][()])
                del file[f"{episode}/{name}"]
                file[f"{episode}/{name}"] = value

    return damage


def about(**changes: Any) -> Any:
    def damage(folder: Path) -> None:
        file = folder / "data/metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def at(place: Any, value: float) -> Any:
    def change(column: np.ndarray) -> np.ndarray:
        column[place] = value
        return column

    return change


def cut(folder: Path) -> None:
    file = folder / "data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without(name: str) -> Any:
    def damage(folder: Path) -> None:
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            del file[name]

    return damage


def replaced(make: Any) -> Any:
    """Another thing in the place of an episode's rewards."""

    def damage(folder: Path) -> None:
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            del file["episode_2/rewards"]
            make(file["episode_2"], folder)

    return damage


def linked(link: Any) -> Any:
    return replaced(lambda episode, _: episode.__setitem__("rewards", link))


@replaced
def elsewhere(episode: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(1600))
    episode.create_dataset("rewards", (200,), float, external=[(str(folder / "secret"), 0, 1600)])


@replaced
def composed(episode: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((200,), float)
    layout[:] = h5py.VirtualSource(folder / "data/main_data.hdf5", "/episode_1/rewards", (200,))
    episode.create_virtual_dataset("rewards", layout)


@replaced
def vast(episode: Any, folder: Path) -> None:
    episode.create_dataset("rewards", (10**15,), float, chunks=(100,))[:5] = 1.0


@replaced
def vast_and_packed(episode: Any, folder: Path) -> None:
    episode.create_dataset("rewards", (10**9,), float, chunks=(10**6,), compression="gzip")[:5] = 1.0


def shared(folder: Path) -> None:
    """The same observations in a thousand episodes."""
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        for i in range(4, 1004):
            file[f"episode_{i}"] = file["episode_2"]
    about(total_episodes=1004)(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (overwrite("episode_1", observations=at((3, 1), math.nan)), "episode_1: observation[3, 1] is nan"),
        (overwrite("episode_0", observations=lambda x: x[:, :2]), "episode_0: observation has the shape (201, 2)"),
        (overwrite("episode_0", observations=lambda x: x[:-1]), "observations are 200; with 200 rewards they must be 201"),
        (overwrite("episode_3", actions=at((5, 0), math.inf)), "episode_3: action[5, 0] is inf"),
        (overwrite("episode_3", actions=lambda x: x[1:]), "episode_3: actions are 49; with 50 rewards they must be 50"),
        (overwrite("episode_2", rewards=at(9, math.nan)), "episode_2: rewards must be one number a step, finite"),
        (overwrite("episode_2", rewards=at(9, 1e300)), "episode_2: rewards must be one number a step, finite"),
        (overwrite("episode_2", terminations=at(9, True)), "episode_2: it goes on after its end at step 10"),
        (overwrite("episode_2", truncations=lambda x: x[1:]), "truncations are 199; with 200 rewards they must be 200"),
        (overwrite("episode_2", observations=lambda x: b"none"), "episode_2: observations must be numbers"),
        (cut, "main_data.hdf5 is damaged"),
        (lambda folder: (folder / "data/main_data.hdf5").write_text("nothing"), "main_data.hdf5 is damaged"),
        (lambda folder: (folder / "data/main_data.hdf5").unlink(), "main_data.hdf5 is damaged"),
        (without("episode_2"), "main_data.hdf5 is damaged"),
        (without("episode_2/rewards"), "main_data.hdf5 is damaged"),
        (lambda folder: (folder / "data/metadata.json").write_text("{"), "metadata.json is damaged"),
        (lambda folder: (folder / "data/metadata.json").write_text("[]"), "metadata.json is damaged"),
        (linked(h5py.ExternalLink("main_data.hdf5", "/episode_1/rewards")), "episode_2: rewards is a link to another place"),
        (linked(h5py.SoftLink("/episode_1/rewards")), "episode_2: rewards is a link to another place"),
        (elsewhere, "episode_2: rewards must be in this file"),
        (composed, "episode_2: rewards must be in this file"),
        (vast, "episode_2: rewards declares 8000000000000000 bytes, more than there can be in this file"),
        (vast_and_packed, "episode_2: rewards declares 8000000000 bytes, more than there can be in this file"),
        (shared, "bytes, more than there can be in this file"),
        (about(observation_space="7"), "it is a 7, not a Box"),
        (about(observation_space='{"type": "Box"}'), "observation_space than the environment's: it is damaged"),
        (about(total_episodes="many"), "metadata.json is damaged"),
        (about(total_episodes=0), "holds no steps"),
        (about(data_format="arrow"), "is in the format 'arrow'; allowed: 'hdf5'"),
    ],
)  # fmt: skip
def test_damage_is_one_line(copy: Path, damage: Any, told: str) -> None:
    damage(copy)
    with pytest.raises(Fault) as fault:
        read(copy, gym.make("Pendulum-v1"))
    assert str(fault.value).startswith(f"data: {copy}/data")
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)


def rescaled() -> gym.Env:
    return gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))


def choosing() -> gym.Env:
    return gym.wrappers.TransformAction(gym.make("Pendulum-v1"), lambda a: [a], spaces.Discrete(2))


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (lambda: gym.make("Hopper-v5"), "another observation_space than the environment's: shape is [3], not [11]"),
        (lambda: gym.make("CartPole-v1"), "another observation_space than the environment's: shape is [3], not [4]"),
        (Mixed, "another observation_space than the environment's: it is a Box, not a Dict"),
        (rescaled, "another action_space than the environment's: low is [-2.0], not [-1.0]"),
        (choosing, "another action_space than the environment's: it is a Box, not a Discrete"),
    ],
)
def test_another_environments_dataset_is_refused(env: Any, told: str) -> None:
    with pytest.raises(Fault, match=r"^data: .*random-v0/data was recorded with another") as fault:
        read("pendulum/random-v0", env())
    assert told in str(fault.value)


def test_spaces_that_differ_inside_are_told_by_part() -> None:
    from minari.serialization import serialize_space

    for part, other, told in (
        ("which", spaces.MultiDiscrete([2, 4]), "part 'which': nvec is [2, 4], not [2, 3]"),
        ("look", spaces.Box(0, 1, (2, 2), np.uint8), "part 'look': high is [[1, 1], [1, 1]], not [[255, 255], [255, 255]]"),
        ("where", spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))), "part 'where': part 0: start is 0, not -1"),
        ("where", spaces.Tuple((spaces.Discrete(3, start=-1),)), "part 'where': it has the parts [0], not [0, 1]"),
    ):
        recorded = json.loads(serialize_space(spaces.Dict({**Mixed.observation_space.spaces, part: other})))
        assert minari_format.differs(recorded, Mixed.observation_space) == told
    assert minari_format.differs(json.loads(serialize_space(Mixed.observation_space)), Mixed.observation_space) == ""


def test_an_unknown_dataset_is_told_with_its_like(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fault) as fault:
        dataset.find("pendulum/randm-v0")
    assert str(fault.value).endswith(f"no such dataset in {root}; did you mean pendulum/random-v0?")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "nothing"))
    for name in ("/", str(tmp_path)):
        with pytest.raises(
            Fault, match=r"a folder without metadata.json; allowed: a folder in Minari's format, or a file .npz or"
        ):
            dataset.find(name)
    for name in ("pendulum/random-v0", ""):
        with pytest.raises(Fault, match="there is no such folder"):
            dataset.find(name)


def test_without_h5py_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(Fault, match=r"install h5py: pip install 'thespis\[data\]'"):
        read("pendulum/random-v0", gym.make("Pendulum-v1"))


# ------------------------------------------------------------------------------------------------------------ what is drawn

SPEC = Spec(Box(1), Box(1))


def made(lengths: list[int], returns: list[float]) -> Dataset:
    """Episodes whose observations count the rows from 0 (and go on counting in `last`), each reward a part of the return."""
    rows, ends = sum(lengths), np.cumsum(lengths)
    starts = np.arange(rows) + np.repeat(np.arange(len(lengths)), lengths)  # an observation more in each episode before
    reward = np.repeat(np.divide(returns, lengths), lengths).astype(np.float32)
    terminated = np.zeros(rows, bool)
    terminated[ends[::2] - 1] = True  # every other one; the rest were cut off
    last = starts[ends - 1, None] + 1
    obs, action = starts[:, None].astype(np.float32), (starts[:, None] % 7 / 7).astype(np.float32)
    return Dataset(obs, action, reward, terminated, np.array(lengths), last.astype(np.float32))


def feed(**numbers: Any) -> OffPolicy:
    return OffPolicy(
        **{"gamma": 0.9, "n_step": 1, "batch_size": 4096, "replay_size": 50, "warmup": 0, "updates_per_step": 1.0, **numbers}
    )


def filled(steps: int, **numbers: Any) -> Replay:
    """A run's own steps, in episodes of five, with observations below 0."""
    replay, no = Replay(SPEC, feed(**numbers), needs=frozenset({"demo"})), np.array([False])
    for t in range(steps):
        obs = np.array([[-1.0 - t]], np.float32)
        replay.add(obs, obs, np.array([float(t)]), no, np.array([t % 5 == 4]), obs - 0.5)
    return replay


@pytest.mark.parametrize("n_step", [1, 3])
def test_every_transition_of_the_dataset_is_what_was_recorded(n_step: int) -> None:
    data = made([4, 1, 6, 3], [4, 2, 3, 9])
    demonstrations = Demonstrations(SPEC, data, filled(0, n_step=n_step))
    batch, seen = demonstrations.sample(), set()
    ends = np.cumsum(data.lengths)
    for obs, action, reward, discount, next_obs in zip(
        batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs, strict=True
    ):
        row = int(np.flatnonzero(data.obs[:, 0] == float(obs))[0])
        end = int(ends[ends > row][0])
        stop = min(row + n_step, end)
        seen.add(row)
        assert float(action) == data.action[row, 0]
        assert float(reward) == pytest.approx(sum(0.9**i * data.reward[row + i] for i in range(stop - row)), rel=1e-6)
        assert float(discount) == pytest.approx(0 if stop == end and data.terminated[end - 1] else 0.9 ** (stop - row))
        assert float(next_obs) == float(obs) + stop - row
    assert len(seen) == 14


def test_a_fixed_part_is_demonstrations_and_the_rest_is_all_there_is() -> None:
    data = made([4, 1, 6, 3], [4, 2, 3, 9])
    replay = filled(6, demo_fraction=0.25, demo_slice=(0.5, 1.0))
    demonstrations = Demonstrations(SPEC, data, replay)
    batch = demonstrations.sample()
    assert len(batch.obs) == 4096
    assert batch.extra["demo"].tolist() == [1.0] * 1024 + [0.0] * 3072
    rows = set(batch.obs[:1024, 0].tolist())
    assert rows == {0, 1, 2, 3, *range(14, 17)}, "of the episodes of return 4 and 9: the better half"
    values, counts = np.unique(batch.obs[1024:, 0].numpy(), return_counts=True)
    assert len(values) == 14 + 6
    assert abs(counts - 3072 / 20).max() < 5 * math.sqrt(3072 / 20)


def test_the_dataset_stays_when_the_ring_comes_round_and_the_draws_are_the_replays() -> None:
    replay = filled(180)
    demonstrations = Demonstrations(SPEC, made([4, 6], [1, 2]), replay)
    state = replay.rng.get_state()
    batch = demonstrations.sample()
    assert set(batch.obs[:, 0].tolist()) == {0, 1, 2, 3, *range(5, 11)} | {-1.0 - t for t in range(130, 180)}
    assert not batch.extra["demo"].any(), "none are drawn as demonstrations unless the learner asks for a part"
    replay.rng.set_state(state)
    assert torch.equal(demonstrations.sample().obs, batch.obs)


@pytest.mark.parametrize("low", [0.0, 0.2, 0.35, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("high", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_between_quantiles(low: float, high: float, count: int) -> None:
    returns = np.random.default_rng(count).permutation(count).astype(float)  # an episode's return is its rank
    inside = between(returns, low, max(low, high))
    ranks = sorted(returns[inside])
    wanted = [r for r in range(count) if low * count < r + 1 - 1e-9 and r + 1e-9 < max(low, high) * count]
    assert ranks == (wanted or [min(math.floor(low * count + 1e-9), count - 1)])


# ------------------------------------------------------------------------------------------------------------------- a run

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 10, "steps": 60, "eval_every": 40, "eval_episodes": 1, "log_every": 20,
    "checkpoint_every": 25, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip
ALGOS: dict[str, dict[str, Any]] = {"sac": {}, "arsq": {"pretrain": 30, "demo_slice": (0.5, 1.0)}}


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Every tensor of the last checkpoint and every row of metrics, clocks apart."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("time/s")} for row in rows]
    return load_file(checkpoint.checkpoints(folder)[-1] / "tensors.safetensors"), rows


@pytest.mark.parametrize("algo", ALGOS)
def test_stopped_and_resumed_equals_never_stopped(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SMALL, **ALGOS[algo], "env": "Pendulum-v1", "data": "pendulum/random-v0"}
    whole = thespis.train(algo, out=tmp_path / "whole", **options)
    tensors, rows = outcome(whole.path)
    assert rows[-1]["step"] == 60
    assert json.loads((whole.path / "checkpoints/000000060/checkpoint.json").read_text())["progress"]["updates"] == 50 + (
        30 if algo == "arsq" else 0
    )
    counted, sample = [0], Demonstrations.sample

    def interrupting(self: Demonstrations) -> Any:
        counted[0] += 1
        if counted[0] == 29:
            os.kill(os.getpid(), signal.SIGINT)
        return sample(self)

    monkeypatch.setattr(Demonstrations, "sample", interrupting)
    result, stops = thespis.train(algo, out=tmp_path / "parts", **options), 0
    while not result.finished:
        counted[0], stops = 0, stops + 1
        result = thespis.resume(tmp_path / "parts", panel=False)
    again, others = outcome(tmp_path / "parts")
    assert stops == (50 + 30 * (algo == "arsq")) // 29
    assert tensors.keys() == again.keys()
    assert all(x.equal(again[k]) for k, x in tensors.items()), [k for k, x in tensors.items() if not x.equal(again[k])]
    assert rows == others
    alone = thespis.train(algo, out=tmp_path / "alone", **{**options, "data": None})
    assert any(not x.equal(tensors[k]) for k, x in outcome(alone.path)[0].items() if k.startswith("state"))


@pytest.mark.parametrize(("data", "wanted"), [("pendulum/random-v0", 30), (None, 0)])
def test_updates_on_the_dataset_come_before_the_first_step(
    data: str | None, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, before, update, step = [0], [], compile.Stepper.step, loop.Collector.step
    monkeypatch.setattr(compile.Stepper, "step", lambda *a: (updates.append(updates[-1] + 1), update(*a)))
    monkeypatch.setattr(loop.Collector, "step", lambda *a: (before.append(updates[-1]), step(*a))[1])
    options = {**SMALL, "pretrain": 30, "warmup": 0, "steps": 5, "env": "Pendulum-v1", "data": data}
    thespis.train("arsq", out=tmp_path / "run", **options)
    assert before == [wanted + i for i in range(5)]


def test_a_dataset_that_changed_or_vanished_stops_a_resume(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--env", "Pendulum-v1", "--data", "copy", "--steps", "20", "--warmup", "9", "--hidden", "8", "--eval-episodes", "1"]
    assert cli.main(["train", "sac", *args, "--out", "run"]) == 0
    monkeypatch.chdir("/")  # what was given as a path from there is found from here
    run = str(tmp_path / "run")
    assert cli.main(["resume", run, "--steps", "25"]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and "tensorboard" not in str(p)}
    overwrite("episode_1", rewards=at(0, 7.0))(copy)
    capsys.readouterr()
    assert cli.main(["resume", run, "--steps", "30"]) == 2
    assert capsys.readouterr().err.startswith(f"thespis: data: {copy}/data has changed since {run} began")
    shutil.rmtree(copy)
    assert cli.main(["resume", run, "--steps", "30"]) == 2
    assert capsys.readouterr().err.startswith(f"thespis: data is '{copy}/data'; there is no such folder")
    assert before == {p: p.read_bytes() for p in before}
    assert cli.main(["evaluate", run, "--episodes", "1"]) == 0, "a policy needs no dataset"


def test_a_wrong_dataset_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="was recorded with another observation_space"):
        thespis.train("sac", env="MountainCarContinuous-v0", data="pendulum/random-v0", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
