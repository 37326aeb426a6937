"""A run that goes on, or from which another begins: what may be other than before, and what is said of it."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis.core import Fault

TINY = {
    "steps": 20, "warmup": 10, "hidden": (4,), "batch_size": 4, "eval_every": 20, "eval_episodes": 1, "log_every": 20,
    "checkpoint_every": 20, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Bounded(gym.Env):
    """Five steps an episode; what is seen is drawn from the seed. The bounds are those of the class."""

    observation_space: gym.Space = spaces.Box(-1, 1, (2,), np.float32)
    action_space: gym.Space = spaces.Box(-1, 1, (1,), np.float32)
    pay = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.uniform(-1, 1)
        return self.seen(), {}

    def seen(self):
        return np.full(2, self.place * 0.9**self.t).astype(self.observation_space.dtype)

    def step(self, action):
        self.t += 1
        return self.seen(), self.pay, False, self.t == 5, {}


class Wide(Bounded):
    action_space = spaces.Box(-50, 50, (1,), np.float32)


class Picture(Bounded):
    observation_space = spaces.Box(0, 255, (2,), np.uint8)


class Double(Bounded):
    observation_space = spaces.Box(-1, 1, (2,), np.float64)


class Moved(Bounded):
    """The same spaces, other dynamics."""

    def seen(self):
        return np.full(2, self.place * 0.1**self.t, np.float32)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("going") / "run"
    thespis.train("sac", Bounded, out=folder, **TINY | {"steps": 18})  # ends within an episode
    return folder


@pytest.fixture
def run(tmp_path, kept):
    return shutil.copytree(kept, tmp_path / "run")


def refused(call, *args, **options):
    with pytest.raises(Fault) as fault:
        call(*args, **options)
    assert "\n" not in str(fault.value)
    return str(fault.value)


# ---------------------------------------------------------------------------------------------------------------- spaces


@pytest.mark.parametrize(("other", "what"), [(Wide, "actions"), (Picture, "observations"), (Double, "observations")])
def test_an_environment_of_other_spaces_is_refused_wherever_one_is_given(run, tmp_path, other, what):
    from thespis import record

    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    uses = [
        (thespis.resume, (run, 40), {"panel": False}),
        (thespis.evaluate, (run, 1), {}),
        (thespis.report, (run,), {"video": True}),
        (record.record, (run, tmp_path / "data", 1), {}),
    ]
    for call, args, options in uses:
        said = refused(call, *args, env=other, **options)
        assert said.startswith(f"env: {other.__name__} has other {what} than {run} was trained on: Box(")
        assert "allowed: Box(-1.0, 1.0, " in said
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before
    about = json.loads((run / "config.json").read_text())
    del about["observation_space"], about["action_space"]  # as an older run has it: its policy still knows
    (run / "config.json").write_text(json.dumps(about))
    assert what in refused(thespis.evaluate, run, 1, env=other)
    assert thespis.evaluate(run, 1, env=Bounded)["mean_return"] == 5


def test_an_environment_that_goes_otherwise_is_not_only_called_random(run, capsys):
    thespis.resume(run, 22, env=Moved, panel=False)
    assert "environment 0 is not deterministic, or another environment than before" in capsys.readouterr().out
