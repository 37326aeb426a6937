"""Runs that begin with another's networks, and parts of the State that stay as they are."""

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import load_file

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 20, "steps": 60, "eval_every": 60, "eval_episodes": 1,
    "compile_after": -1, "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip


def state(run):
    return load_file(checkpoint.checkpoints(run.path)[-1] / "tensors.safetensors")


def changed(run, other):
    """The parts of State of which a tensor differs."""
    a, b = state(run), state(other)
    return {k.split(".")[1] for k in a if k.startswith("state.") and ".params" in k and not a[k].equal(b[k])} | {
        "target" for k in a if k.startswith("state.target") and not a[k].equal(b[k])
    }


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return thespis.train("sac", env="Pendulum-v1", out=tmp_path_factory.mktemp("old") / "run", seed=3, **SMALL)


def test_what_is_frozen_stays_and_all_else_learns(old, tmp_path):
    free = thespis.finetune(old, env_args={"g": 5.0}, out=tmp_path / "free", quiet=True, panel=False)
    held = thespis.finetune(old, freeze=("critic", "target"), out=tmp_path / "held", quiet=True, panel=False)
    assert changed(old, free) == {"actor", "critic", "target", "log_alpha"}
    assert changed(old, held) == {"actor", "log_alpha"}
    about = checkpoint.read_json(free.path / "config.json")
    assert (about["run"]["seed"], about["run"]["steps"], about["run"]["env_args"]) == (3, 60, ["g=5.0"])
    assert about["algo_config"]["hidden"] == [8]
    assert about["start"]["run"] == str(old.path.resolve())
    thespis.resume(held, 90, quiet=True, panel=False)
    assert changed(old, held) == {"actor", "log_alpha"}


def test_an_on_policy_learner_keeps_what_prepare_gathers(tmp_path):
    small = {k: v for k, v in SMALL.items() if k != "warmup"} | {"rollout": 20, "epochs": 1}
    first = thespis.train("ppo", env="Pendulum-v1", out=tmp_path / "first", **small)
    names = {k.split(".")[1] for k in state(first) if k.startswith("state.")}
    held = thespis.finetune(first, freeze=sorted(names - {"critic"}), out=tmp_path / "held", quiet=True, panel=False)
    a, b = state(first), state(held)
    kept = [k for k in a if k.startswith("state.") and k.split(".")[1] != "critic" and ".m." not in k and ".v." not in k]
    assert [k for k in kept if not k.endswith(".t") and not a[k].equal(b[k])] == []
    assert any(not a[k].equal(b[k]) for k in a if k.startswith("state.critic.params"))


class Tall(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (5,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(5, np.float32), {}


def test_what_does_not_fit_is_one_line_and_leaves_nothing(old, tmp_path):
    out = tmp_path / "out"
    for text, how in {
        "freeze is 'actr'; allowed: actor, critic, target, log_alpha": {"freeze": ("actr",)},
        "does not fit this environment and configuration: actor": {"env": Tall},
        "is not an option of sac": {"momentum": 1},
    }.items():
        with pytest.raises(Fault, match=text):
            thespis.finetune(old, out=out, quiet=True, panel=False, **how)
        assert not out.exists()
    with pytest.raises(Fault, match="does not exist"):
        thespis.finetune(tmp_path / "nowhere")
    with pytest.raises(Fault, match="freeze: actor would begin anew at every reset"):
        thespis.train("sr_sac", env="Pendulum-v1", freeze=("actor",), out=out, quiet=True)


def test_the_command_has_the_options_of_the_run(old, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        cli.main(["finetune", str(old.path), "--freeze", "critic", "target", "--lr", "1e-4", "--out", str(out), "--quiet"]) == 0
    )
    about = checkpoint.read_json(out / "config.json")
    assert (about["run"]["freeze"], about["algo_config"]["lr"], about["algo_config"]["warmup"]) == (
        ["critic", "target"],
        1e-4,
        20,
    )
    assert cli.main(["finetune", str(old.path), "--freeze", "actr"]) == 2
    assert "allowed: actor, critic" in capsys.readouterr().err


def test_a_cloned_policy_is_refused_as_a_start_of_sac_in_one_line(tmp_path):
    data = {
        "observations": np.zeros((20, 3), np.float32), "actions": np.zeros((20, 1), np.float32),
        "rewards": np.zeros(20), "terminals": np.zeros(20, bool), "timeouts": np.arange(20) == 19,
    }  # fmt: skip
    small = {k: v for k, v in SMALL.items() if k != "warmup"} | {"steps": 4}
    cloned = thespis.train("bc", env="Pendulum-v1", data=data, out=tmp_path / "bc", **small)
    with pytest.raises(Fault, match="does not fit this environment and configuration"):
        thespis.train("sac", env="Pendulum-v1", start_from=cloned, out=tmp_path / "sac", **SMALL)
