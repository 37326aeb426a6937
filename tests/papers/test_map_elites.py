"""MAP-Elites: what a round leaves in the archive, by a loop; what is acted with; and the engine's part of many policies."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import thespis
from tests.engine.runs import assert_equal
from thespis import nets, ops
from thespis.algos.diversity import map_elites
from thespis.core import Batch, Box, Fault, Spec, leaves
from thespis.data import OnPolicy, Rollout

SPEC = Spec(Box(3), Box(2), rewards=("fitness", "x", "y"), horizon=4)
TINY = {"cells": 12, "hidden": (4,)}
GRADIENT = {"genetic": 2, "gradient": 2, "critic_steps": 3, "variation_steps": 2, "critic_hidden": (4,), "batch_size": 8}
SIZES = {
    "map_elites": {"offspring": 4},
    "pga_map_elites": GRADIENT | {"greedy": False},
    "dcg_map_elites": GRADIENT | {"gradient": 1, "asked": 1, "replay_size": 150},
}
QUIET = {"eval_episodes": 2, "compile_after": -1, "sinks": (), "panel": False, "quiet": True}


def rollout(spec: Spec, policies: int, seed: int = 0) -> Batch:
    """Four steps of each policy; some end sooner."""
    g = torch.Generator().manual_seed(seed)
    shape = 4, policies
    ended = torch.rand(shape, generator=g) < 0.2
    ended[-1] = True
    obs, ahead = torch.randn(2, *shape, spec.obs.dim + 2, generator=g)
    reward = torch.rand(*shape, 3, generator=g) - 0.5
    action = torch.rand(*shape, spec.action.dim, generator=g) * 2 - 1
    return Batch(obs, action, reward, torch.full((*shape, 3), 0.9), ahead, {"ended": ended})


def test_a_round_keeps_the_fittest_of_each_cell() -> None:
    learner = map_elites.make(map_elites.Config(offspring=30, **TINY), SPEC)
    torch.manual_seed(0)
    state, best = learner.init(), {}
    for round_ in range(3):
        b = rollout(SPEC, 30, round_)
        for i in range(30):
            steps = int(b.extra["ended"][:, i].int().argmax()) + 1
            fitness, *place = b.reward[:steps, i].double().sum(0).tolist()
            cell = min(
                range(12),
                key=lambda c: sum((p - q) ** 2 for p, q in zip(place, state.archive.centroids[c].tolist(), strict=True)),
            )
            if fitness > best.get(cell, (-math.inf,))[0]:
                best[cell] = fitness, state.candidates["w0"][i].clone()
        state, rows, told = learner.prepare(state, b)
        assert float(told["qd_score"]) == pytest.approx(sum(f for f, _ in best.values()), abs=1e-4)
        assert float(told["coverage"]) == pytest.approx(len(best) / 12)
        for cell, (fitness, genes) in best.items():
            assert float(state.archive.fitness[cell]) == pytest.approx(fitness, abs=1e-5)
            assert torch.equal(state.archive.genes["w0"][cell], genes)
        state, _ = learner.update(state, rows, 0)


def test_it_acts_as_the_elite_next_to_what_is_asked_for() -> None:
    learner = map_elites.make(map_elites.Config(offspring=30, **TINY), SPEC)
    torch.manual_seed(0)
    state, _, _ = learner.prepare(learner.init(), rollout(SPEC, 30))
    a, net = state.archive, nets.mlp((3, 4, 2))
    obs, asked = torch.randn(20, 3), torch.rand(20, 2) - 0.5
    action = learner.act(learner.policy(state), torch.cat([obs, asked], 1), False)
    for i in range(20):
        near = min(a.filled.nonzero()[:, 0].tolist(), key=lambda c: float((a.descriptor[c] - asked[i]).square().sum()))
        torch.testing.assert_close(action[i], net.apply({k: g[near] for k, g in a.genes.items()}, obs[i]).tanh())
    for n in (1, 7):
        found = learner.context(state, n, False)
        assert all(any(torch.equal(row, d) for d in a.descriptor[a.filled]) for row in found)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_stopped_between_rounds_and_within_one_it_is_bitwise_the_same(name: str, tmp_path: Path) -> None:
    """Omni of 8 steps, so that a round is 32; stopped after 1 round and a half. The archive is in the State."""
    options = TINY | SIZES[name] | QUIET | {"env": "thespis/Omni-v0", "env_args": {"strength": 0.05}, "episode_steps": 8}
    every = {"eval_every": 48, "log_every": 16, "checkpoint_every": 48}
    whole = thespis.train(name, steps=128, out=tmp_path / "whole", **options, **every)
    thespis.train(name, steps=48, out=tmp_path / "part", **options, **every)
    thespis.resume(tmp_path / "part", 128, panel=False, quiet=True)
    assert_equal(tmp_path / "part", whole.path)
    tensors = thespis.engine.checkpoint.read_tensors(sorted((whole.path / "checkpoints").iterdir())[-1] / "tensors.safetensors")
    assert tensors["state.archive.fitness"].shape == (12,)
    assert float(tensors["state.archive.fitness"].max()) > 0
    policy = thespis.load(whole)
    asked = policy.contexts[0]
    seen, form = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32), "torch" if name == "pga_map_elites" else "onnx"
    action = np.stack([policy.act(row, context=asked) for row in seen])
    made = thespis.export(whole.path, form)  # tried beside the policy as it is written
    assert made.difference <= 1e-4
    assert set(made.inputs) == {"observation", "context"}
    assert action.shape == (5, 8)


def test_a_replay_of_rollouts_keeps_the_newest_rows_that_count() -> None:
    feed = OnPolicy(0.9, 4, 5, 64, policies=3, replay_size=10)
    assert [feed.updates(steps, 3) for steps in (11, 12, 24)] == [0, 5, 10]
    replay = Rollout(SPEC, feed, 3)
    b = ops.archive.flat(rollout(SPEC, 3))
    for first in (0, 6):  # rows numbered by their first column
        b.obs[:, 0] = torch.arange(12.0) + first * 2
        kept = torch.arange(12) % 2 == 0
        replay.learn_from(Batch(b.obs, b.action, b.reward, b.discount, b.next_obs, {"kept": kept, "mark": b.obs[:, 0]}))
    found = replay.sample()
    assert len(found.obs) == 64
    assert set(found.obs[:, 0].tolist()) == {4, 6, 8, 10, 12, 14, 16, 18, 20, 22}
    assert torch.equal(found.extra["mark"], found.obs[:, 0])
    again = Rollout(SPEC, feed, 3)
    again.restore(replay.save())
    again.rng.set_state(state := replay.rng.get_state())
    assert leaves(again.sample()).keys() == leaves(found).keys()
    again.rng.set_state(state)
    assert all(torch.equal(x, y) for x, y in zip(leaves(again.sample()).values(), leaves(replay.sample()).values(), strict=True))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"env": "Pendulum-v1"}, "the environment has one reward"),
        ({"num_envs": 3}, "num_envs is 3; map_elites has 4 policies side by side"),
        ({"reward_unit": 10.0}, "reward_unit: map_elites reads descriptors"),
        ({"env": "CartPole-v1"}, "continuous actions"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, line: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=line):
        thespis.train("map_elites", out=tmp_path / "run", **({"env": "thespis/Omni-v0", "offspring": 4} | QUIET | options))
    assert not (tmp_path / "run").exists()
