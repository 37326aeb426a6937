"""Simulators of other packages: each beside what its own package says of the same episode."""

import numpy as np
import pytest

from thespis import envs
from thespis.core import Fault
from thespis.envs import making


def test_the_control_suite_is_its_own_package_step_by_step():
    suite = pytest.importorskip("dm_control.suite", reason="the extra dm-control is not installed")
    pytest.importorskip("shimmy", reason="the extra dm-control is not installed")
    world = envs.world("dm_control/cartpole-swingup-v0")
    env, own = world.make(), suite.load("cartpole", "swingup", task_kwargs={"random": 3})
    obs, _ = env.reset(seed=3)
    step, rng, gaps, lengths = own.reset(), np.random.default_rng(0), [], []
    for episode in range(2):
        for _ in range(2000):
            assert obs == pytest.approx(np.concatenate([np.ravel(x) for x in step.observation.values()]), abs=1e-6)
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(action)
            step = own.step(action)
            gaps.append(reward - step.reward)
            assert not terminated  # its episodes end by the clock
            if truncated:
                break
        lengths.append(len(gaps))
        if episode == 0:
            obs, step = env.reset()[0], own.reset()
    assert np.abs(gaps).max() < 1e-9
    assert lengths == [1000, 2000]
    assert world.spec.obs.dim == 5


def test_fetch_says_what_its_goals_are_worth():
    pytest.importorskip("gymnasium_robotics", reason="the extra robotics is not installed")
    world = envs.world("FetchReach-v4")
    env = world.make()
    raw, rng = env.unwrapped, np.random.default_rng(0)
    assert world.spec.horizon == 50
    for seed in range(2):
        env.reset(seed=seed)
        for t in range(50):
            _, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
            seen = raw._get_obs()
            far = np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"]) > 0.05
            assert (reward, terminated, truncated) == (-float(far), False, t == 49)
        assert bool(info["is_success"]) is not far  # of an episode's last step


@pytest.mark.parametrize("name", ["dm_control/cartpole-swingup-v0", "FetchReach-v4"])
def test_an_absent_package_is_named_with_its_extra(monkeypatch, name):
    for key in [key for key in making.registry if key.startswith(name[:5])]:
        monkeypatch.delitem(making.registry, key)
    monkeypatch.setattr(making, "find_spec", lambda package: None)
    with pytest.raises(Fault, match=r"pip install 'thespis\[(dm-control|robotics)\]'$"):
        envs.world(name)
    assert envs.known(name)
