"""Collectors in other processes: what reaches the learner is what happened, once, however many of them die."""

import contextlib
import itertools
import json
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

import thespis
from tests.engine.ring import held
from thespis import envs
from thespis.algos.continuous import sac
from thespis.algos.discrete import sac_discrete
from thespis.core import Box, Discrete, Fault, Spec
from thespis.data import Shards
from thespis.engine import checkpoint, cluster, remote
from thespis.engine.run import Run
from thespis.envs.probes import Counter

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 100, "steps": 1500, "eval_every": 500, "eval_episodes": 1, "log_every": 100,
    "checkpoint_every": 500, "updates_per_step": 0.2, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


def assert_true_to_life(shards):
    """Each row is one step of one episode, none is there twice, and none is missing but after a cut. Returns the cuts."""
    seen, cuts = set(), 0
    for part in shards.parts:
        obs, action, reward, terminated, ended, after = held(part)
        (seed, step), (next_seed, next_step) = Counter.read(obs), Counter.read(after)
        assert (seed == next_seed).all()
        assert (next_step == step + 1).all()
        np.testing.assert_allclose(reward, next_step + action[..., 0], rtol=1e-6)
        over = next_step == 3 + seed % 5
        assert ended[over].all()
        assert (terminated == (over & (seed % 2 == 0))).all()
        goes_on = ~ended[:-1]
        assert (seed[1:] == seed[:-1])[goes_on].all()
        assert (step[1:] == np.where(goes_on, next_step[:-1], 0)).all()
        cuts += int((ended & ~over).sum())
        rows = set(zip(seed.ravel().tolist(), step.ravel().tolist(), strict=True))
        assert len(rows) == seed.size
        assert not rows & seen
        seen |= rows
    return cuts


# ------------------------------------------------------------------------------------------- the learner's side, by itself


class Fake:
    """Ray as the learner's side sees it, in one process: answers come late or never, as told."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = ValueError("")

    def __init__(self, die=0.0, slow=()):
        self.random, self.die, self.slow, self.made, self.deaths = random.Random(0), die, slow, 0, 0

    def put(self, value):
        return lambda: value

    def remote(self, worker):
        fake = self

        class Actor:
            def __init__(self):
                self.worker, self.number = worker(), fake.made
                fake.made += 1

            def __getattr__(self, name):
                class Method:
                    @staticmethod
                    def remote(*args):
                        answer = lambda: getattr(self.worker, name)(*[a() if callable(a) else a for a in args])
                        answer.number = self.number if name == "collect" else -1
                        return answer

                return Method

        class Maker:
            def options(self, **_):
                return self

            def remote(self):
                return Actor()

        return Maker()

    def wait(self, refs, num_returns, timeout):
        quick = [ref for ref in refs if ref.number not in self.slow]
        if not quick and len(refs) > 1:
            return [], refs
        return [self.random.choice(quick or refs)], []

    def get(self, ref):
        late = self.random.random() < 0.5
        if self.random.random() < self.die:
            self.deaths += 1
            if late:  # it was done, and died before it could say so
                ref()
            raise self.exceptions.RayError("killed")
        return ref()

    def kill(self, actor):
        pass


def made(monkeypatch, fake, collectors, num_envs=1, steps=2000, warmup=100, ups=1.0, env="thespis/Counter-v0", skip=None):
    monkeypatch.setitem(sys.modules, "ray", fake)
    world = envs.world(env)
    learner = sac.make(sac.Config(hidden=(4,), warmup=warmup, updates_per_step=ups), world.spec)
    run = Run(steps=steps, collectors=collectors, num_envs=num_envs, on_env_error="restart" if skip else "stop")
    shards = Shards(world.spec, learner.experience, collectors, num_envs)
    policy = learner.policy(learner.init())
    return remote.Collectors(learner, world, run, shards, 0, lambda _: None, skip), lambda: policy


def stepped(c, policy, times):
    for _ in range(times):
        c.step(policy, 0)


def test_a_learner_whose_functions_name_torch_and_ops_can_be_sent():
    ray = pytest.importorskip("ray")
    learner = sac_discrete.make(sac_discrete.Config(hidden=(4,)), Spec(Box(2), Discrete(3)))
    sent = ray.cloudpickle.loads(ray.cloudpickle.dumps(learner))
    policy, obs = learner.policy(learner.init()), torch.ones(5, 2)
    assert sent.act(policy, obs, False).equal(learner.act(policy, obs, False))


@pytest.mark.parametrize(
    ("collectors", "num_envs", "die", "slow"), [(1, 1, 0, ()), (3, 2, 0, (0,)), (4, 1, 0.15, ()), (3, 3, 0.15, (1,))]
)
def test_every_row_once_and_none_too_old(monkeypatch, collectors, num_envs, die, slow):
    fake, ups = Fake(die, slow), 0.5
    c, policy = made(monkeypatch, fake, collectors, num_envs, ups=ups)
    updates, taken, episodes = 0, [], []
    take = c._take
    monkeypatch.setattr(c, "_take", lambda slot, s, v: taken.append((len(s.rows[0]), v - s.version)) or take(slot, s, v))
    while c.replay.added < 2000:
        episodes += c.step(policy, updates)
        updates = math.floor(max(c.replay.added - 100, 0) * ups)
    steps, lags = zip(*taken, strict=True)
    assert 2000 <= c.replay.added < 2000 + num_envs
    assert sum(steps) * num_envs == c.replay.added
    assert c.metrics() == {"collect/staleness_mean": pytest.approx(np.mean(lags)), "collect/staleness_max": max(lags)}
    assert c.metrics() == {}
    cuts = assert_true_to_life(c.replay)
    assert cuts <= fake.deaths * num_envs
    assert (cuts > 0) == (die > 0)
    assert max(lags) <= 2 * collectors * remote.SEGMENT * num_envs * ups + 1
    assert (fake.deaths > 2) == (die > 0)
    whole = sum(int(part.ended[: part.steps * num_envs].sum()) for part in c.replay.parts) - cuts
    assert len(episodes) == whole


def test_a_slow_collector_is_waited_for(monkeypatch):
    c, policy = made(monkeypatch, Fake(slow=(0,)), 4, steps=4000)
    stepped(c, policy, 100)
    steps = c.replay.steps
    assert steps[0] > 0
    assert max(steps) <= 5 * steps[0] + 5 * remote.SEGMENT


def test_the_warm_up_is_random_and_as_long_as_it_says(monkeypatch):
    asked = []
    real = remote.Worker.collect
    monkeypatch.setattr(
        remote.Worker,
        "collect",
        lambda self, steps, explore, policy: asked.append((steps, explore)) or real(self, steps, explore, policy),
    )
    c, policy = made(monkeypatch, Fake(), 3, num_envs=2, steps=1000, warmup=150)
    while c.replay.added < 1000:
        c.step(policy, 0)
    assert sum(steps for steps, explore in asked if not explore) * 2 == 150
    assert sum(steps for steps, _ in asked) * 2 == 1000


def test_what_dies_again_and_again_is_told(monkeypatch):
    c, policy = made(monkeypatch, Fake(die=1.0), 1)
    with pytest.raises(Fault, match=r"collector 0 died 6 times without a step in between \(killed\)"):
        stepped(c, policy, 10)


def test_a_segment_out_of_turn_is_refused(monkeypatch):
    c, policy = made(monkeypatch, Fake(), 1)
    real = remote.Worker.collect
    monkeypatch.setattr(remote.Worker, "collect", lambda *args: real(*args)._replace(number=7))
    with pytest.raises(RuntimeError, match="sent step 7 where 0 was due"):
        stepped(c, policy, 10)


def test_resumed_collectors_have_seeds_of_their_own_and_cut_what_was(monkeypatch):
    c, policy = made(monkeypatch, Fake(), 2)
    while c.replay.added < 700:
        c.step(policy, 0)
    held = c.replay
    second, _ = made(monkeypatch, Fake(), 2)
    second.replay = held
    second.slots = [remote._Slot(part) for part in held.parts]
    second.restore(json.loads(json.dumps(c.save()[0])), {}, pytest.fail)
    while held.added < 1400:
        second.step(policy, 0)
    assert 0 < assert_true_to_life(held) <= 2


class Flaky(Counter):
    """Every third episode raises: in its first step, or in its third."""

    raised: ClassVar[list[int]] = []

    def step(self, action):
        if self.episode % 3 == 0 and self.t == 2 * (self.episode % 2):
            Flaky.raised.append(self.t)
            raise RuntimeError("broken")
        return super().step(action)


def test_environments_that_fail_in_a_collector_are_replaced_and_counted(monkeypatch):
    Flaky.raised, told = [], []
    c, policy = made(monkeypatch, Fake(), 2, num_envs=2, env=Flaky, skip=told.append)
    while c.replay.added < 2000:
        c.step(policy, 0)
    assert len(told) == len(Flaky.raised) > 50
    assert all("Flaky" in str(fault) and "broken" in str(fault) for fault in told)
    assert assert_true_to_life(c.replay) == sum(t > 0 for t in Flaky.raised)  # an episode that fails at once leaves no row


@pytest.mark.parametrize("at", [0, 1, remote.SEGMENT - 1, remote.SEGMENT, 45])
def test_an_episode_that_a_collector_cuts_is_cut_in_the_replay(monkeypatch, at):
    """Wherever in a segment it is, its first row too: then it is the segment before that ends with it."""
    step = remote.Collector.step

    def strays(self, act):
        if self.replay.steps == at:
            self.replay.cut(1)
            self.over[1] = True
        return step(self, act)

    monkeypatch.setattr(remote.Collector, "step", strays)
    c, policy = made(monkeypatch, Fake(), 1, num_envs=2, steps=200)
    while c.replay.added < 200:
        c.step(policy, 0)
    ended, obs = c.replay.parts[0].ended[:200].reshape(-1, 2), c.replay.parts[0].obs[:200].reshape(-1, 2, 4)
    assert at == 0 or ended[at - 1, 1]
    assert obs[at, 1, 3] == 0
    assert assert_true_to_life(c.replay) <= 1


def test_an_address_for_nobody_is_refused(tmp_path):
    with pytest.raises(Fault, match="ray_address is 'auto'; it says where collectors are: give collectors too"):
        thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", ray_address="auto", **SMALL)


def test_resume_refuses_an_address_for_nobody_and_changes_nothing(tmp_path):
    run = thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", **SMALL | {"steps": 200}).path
    before = (run / "config.json").read_bytes()
    with pytest.raises(Fault, match=r"ray_address is '127.0.0.1:1'; it says where collectors are"):
        thespis.resume(run, 300, ray_address="127.0.0.1:1")
    assert (run / "config.json").read_bytes() == before


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Fault, match=r'pip install "thespis\[ray\]"'):
        thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", collectors=2, **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "here"])
def test_where_no_cluster_is_one_line_says_so(address, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(Fault, match="no Ray cluster can be joined there"):
        thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", collectors=2, ray_address=address, **SMALL)


def test_what_listens_and_is_not_ray_is_given_up(monkeypatch, tmp_path):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "JOIN", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Fault, match=r"no Ray cluster can be joined there \(nobody answers as Ray does in 3 s\)"):
            thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "run", collectors=2, ray_address=address, **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_collector_of_another_version_says_so(monkeypatch):
    c, policy = made(monkeypatch, Fake(), 1)
    begin = remote.Worker.begin
    monkeypatch.setattr(remote.Worker, "begin", lambda self, version, *more: begin(self, "9.9", *more))
    with pytest.raises(Fault, match=rf"collector 0: thespis is {thespis.__version__} on .*, the learner's 9.9; install the same"):
        stepped(c, policy, 10)


# ----------------------------------------------------------------------------------------------------------- with Ray itself


def living():
    """Every process and its parent; those that are dead and only not yet buried apart."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:
            continue
        state, parent = rest.rpartition(")")[2].split()[:2]
        if state != "Z":
            parents[int(pid)] = int(parent)
    return parents


def family(first=None):
    """Every process that descends from this one."""
    parents, found, new = living(), set(), {first or os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def listening(pids):
    """The addresses, in hexadecimal, on which these processes listen."""
    sockets = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(fd))
            except OSError:
                continue
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def gone(pids, seconds=180):
    until = time.monotonic() + seconds
    while pids & living().keys():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def killer(folder, kills, every, done):
    """Kills a collector every so often; `folder` holds a file for each that has made a segment's steps."""
    dead, choice = set(), random.Random(0)
    while len(dead) < kills and not done.is_set():
        pids = {int(p.name) for p in folder.iterdir()} - dead - {os.getpid()}
        if pids:
            pid = choice.choice(sorted(pids))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            dead.add(pid)
        done.wait(every)
    return len(dead)


def killed(tmp_path, kills, every, pace, collectors, **options):
    """A run whose collectors are killed; what its last checkpoint holds."""
    folder, done, count = tmp_path / "pids", threading.Event(), []
    folder.mkdir()

    def own():  # registered nowhere, and known to this process alone
        env, steps = gym.make("thespis/Counter-v0"), itertools.count()
        step = env.unwrapped.step

        def slow(action):
            if next(steps) == remote.SEGMENT:
                (folder / str(os.getpid())).touch()
            time.sleep(pace)
            return step(action)

        env.unwrapped.step = slow
        return env

    thread = threading.Thread(target=lambda: count.append(killer(folder, kills, every, done)))
    thread.start()
    try:
        options = SMALL | options
        result = thespis.train("sac", env=own, out=tmp_path / "run", collectors=collectors, **options)
    finally:
        done.set()
        thread.join()
    assert result.finished
    world = envs.world("thespis/Counter-v0")
    shards = Shards(world.spec, sac.make(sac.Config(), world.spec).experience, collectors, options.get("num_envs", 1))
    meta, _ = checkpoint.load(result.path, shards, pytest.fail)
    assert meta["progress"]["steps"] == shards.added == options["steps"]
    assert meta["progress"]["updates"] == math.floor((options["steps"] - options["warmup"]) * options["updates_per_step"])
    return assert_true_to_life(shards), count[0], result


@pytest.mark.slow
def test_collectors_that_are_killed_lose_and_double_nothing_and_leave_nothing(tmp_path, capsys):
    pytest.importorskip("ray")
    seen, heard, over = set(), set(), threading.Event()

    def watch():
        while not over.wait(0.5):
            now = family()
            seen.update(now)
            heard.update(listening(now | {os.getpid()}))

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before, lock = family(), threading.Lock()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with cluster.cluster(2, None):
            cuts, kills, result = killed(tmp_path, kills=2, every=1.0, pace=0.005, collectors=2, steps=600, num_envs=2)
            own = lambda: lock.locked() or gym.make("thespis/Counter-v0")
            with pytest.raises(Fault, match=r"env: .* cannot be sent to the collectors"):
                thespis.train("sac", env=own, out=tmp_path / "other", collectors=1, **SMALL)
            with pytest.raises(Fault, match="collectors is 3; the Ray cluster has 2 CPUs"):
                thespis.train("sac", env="thespis/Counter-v0", out=tmp_path / "other", collectors=3, **SMALL)
        assert not (tmp_path / "other").exists()
    finally:
        over.set()
        watcher.join()
    assert kills == 2
    died = capsys.readouterr().out.count("died; another takes its place")
    assert 1 <= died <= 2
    assert cuts <= died * 2
    rows = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    stale = [row["collect/staleness_max"] for row in rows if "collect/staleness_max" in row]
    assert stale
    assert max(stale) <= 2 * 2 * remote.SEGMENT * 2 * 0.2 + 1
    assert len(seen) > 5
    assert heard <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}  # loopback
    assert gone(seen - before)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
