"""Priorities in a run: what an update tells, what a run refuses, and that it goes on exactly."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import thespis
from thespis import cli
from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Fault, Spec
from thespis.engine import checkpoint

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 120, "eval_every": 40, "eval_episodes": 1, "log_every": 40,
    "checkpoint_every": 40, "compile_after": -1, "sinks": (), "panel": False, "quiet": True, "priority": 0.6,
}  # fmt: skip


def test_errors_of_sac_are_the_temporal_differences_and_weights_multiply_their_squares():
    learner = sac.make(sac.Config(hidden=(8,)), Spec(Box(3), Box(2)))
    torch.manual_seed(0)
    state, obs, weight = learner.init(), torch.randn(6, 3), torch.rand(6)
    batch = Batch(obs, torch.rand(6, 2), torch.randn(6), torch.zeros(6), obs, {"weight": weight})  # each is its episode's last
    loss, told = learner.losses["critic"](state.critic.params, state, batch)
    x = torch.cat([batch.obs, batch.action], -1).double().numpy()
    p = {k: v.double().numpy() for k, v in state.critic.params.items()}
    q = np.stack([np.maximum(x @ p["w0"][i] + p["b0"][i], 0) @ p["w1"][i] + p["b1"][i] for i in range(2)])[..., 0]
    error = q - batch.reward.double().numpy()
    np.testing.assert_allclose(told["errors"].detach(), np.abs(error).mean(0), rtol=1e-5)
    np.testing.assert_allclose(loss.item(), 0.5 * (weight.numpy() * error**2).mean(-1).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("sac", "Pendulum-v1", {"num_envs": 2, "replay_size": 60, "n_step": 3}),  # the ring wraps
        ("td3", "Pendulum-v1", {"frame_stack": 2, "normalise_obs": True}),
        ("sac_discrete", "thespis/BitFlip-v0", {"hindsight": "final"}),
    ],
)
def test_resumed_it_is_bitwise_the_run_that_never_stopped(tmp_path, algo, env, options):
    """It is stopped in the middle, and its exponent goes on towards the same end."""
    thespis.train(algo, env, out=tmp_path / "whole", **SMALL | options)
    thespis.train(algo, env, out=tmp_path / "part", **SMALL | options, callback=lambda row: row.step < 80)
    thespis.resume(tmp_path / "part", 120, panel=False, quiet=True, callback=lambda row: None)
    assert_equal(tmp_path / "part", tmp_path / "whole")
    saved = load_file(checkpoint.checkpoints(tmp_path / "whole")[-1] / "tensors.safetensors")
    assert saved["replay.priorities"].unique().numel() > 20
    assert saved["replay.priority"][1] > 20


def test_the_command_line_keeps_what_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "--steps",
        "40",
        "--warmup",
        "20",
        "--hidden",
        "8",
        "--batch-size",
        "4",
        "--eval-episodes",
        "0",
        "--compile-after",
        "-1",
    ]
    cli.main(["train", "sac", "--env", "Pendulum-v1", "--priority", "0.7", "--priority-beta", "0.5", "--out", "run", *small])
    run = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert (run["priority"], run["priority_beta"]) == (0.7, 0.5)
    with pytest.raises(Fault, match=r"^priority is 0\.6 and was 0\.7; a run cannot change it"):
        thespis.resume("run", 60, priority=0.6)


@pytest.mark.parametrize(
    ("algo", "env", "options", "line"),
    [
        ("ppo", "Pendulum-v1", {}, "priority: ppo has no replay of its own steps; leave it out, or take an off-policy"),
        ("tqc", "Pendulum-v1", {}, "priority: tqc does not tell how wrong it was about each row"),
        ("recurrent_sac", "Pendulum-v1", {}, "priority: recurrent_sac does not tell"),
        ("sac", "Pendulum-v1", {"priority": 0}, "priority is 0; allowed: a number above 0"),
        ("sac", "Pendulum-v1", {"priority_beta": 1.5}, "priority_beta is 1.5; allowed: a number from 0 to 1"),
        ("sac", "Pendulum-v1", {"collectors": 1}, "collectors: with priority a run has one replay"),
    ],
)
def test_what_cannot_have_priorities_says_so_in_a_line(tmp_path, algo, env, options, line):
    with pytest.raises(Fault, match=f"^{re.escape(line)}") as caught:
        thespis.train(algo, env, out=tmp_path / "run", steps=10, **({"priority": 0.6} | options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_cannot_be_drawn_so(tmp_path):
    rows = {"observations": np.zeros((20, 3)), "actions": np.zeros((20, 1)), "rewards": np.zeros(20), "terminals": np.ones(20)}
    for offline, line in (False, "data: with priority"), (True, "priority: sac learns from data alone here"):
        with pytest.raises(Fault, match=f"^{line}"):
            thespis.train("sac", "Pendulum-v1", data=rows, offline=offline, priority=0.6, out=tmp_path / "run")
