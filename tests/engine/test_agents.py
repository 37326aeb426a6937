"""Several agents: as one environment, and as learners with parameters of their own or in common."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis import envs
from thespis.algos.continuous import sac
from thespis.algos.onpolicy import ppo
from thespis.core import Batch, Box, Fault, MultiDiscrete, OffPolicy, Spec, leaves, replace, tree_map
from thespis.data import Replay
from thespis.engine import agents
from thespis.engine.collect import Collector
from thespis.envs.agents import Agents

QUIET = {"eval_every": 10_000, "sinks": (), "compile_after": -1, "panel": False, "quiet": True}
GAINS = {"a": [0, 1], "b": [0, 0.5, 1]}


class Two:
    """PettingZoo's parallel API: a has two numbers and two choices, b three of each. b dies in the third step, all is cut off
    after four. The best choice is the last."""

    possible_agents = ("a", "b")
    metadata = {"render_modes": []}  # noqa: RUF012
    sees = {"a": 2, "b": 3}  # noqa: RUF012

    def observation_space(self, agent):
        return spaces.Box(-1, 1, (self.sees[agent],), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(len(GAINS[agent]))

    def reset(self, seed=None, options=None):
        self.rng, self.t, self.agents = np.random.default_rng(seed), 0, list(self.possible_agents)
        return self.seen(), {name: {} for name in self.agents}

    def seen(self):
        return {name: self.rng.uniform(-1, 1, self.sees[name]).astype(np.float32) for name in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        obs, there = self.seen(), self.agents
        gained = {name: self.gain(name, actions[name]) for name in there}
        dead = {name: name == "b" and self.t == 3 for name in there}
        over = dict.fromkeys(there, self.t == 4)
        self.agents = [name for name in there if not dead[name] and not over[name]]
        return obs, gained, dead, over, {name: {"load": float(self.t)} for name in there}

    def gain(self, name, action):
        return GAINS[name][action]

    def close(self):
        pass


class Pushes(Two):
    """The same, of actions that are numbers: the nearer a's is to 2, and b's to -2, the better."""

    def action_space(self, agent):
        return spaces.Box(-4, 4, (1,), np.float32)

    def gain(self, name, action):
        return 1 - abs(float(action[0]) - (2 if name == "a" else -2)) / 6


def test_two_agents_are_one_environment():
    world = envs.world(Two)
    assert world.spec == Spec(Box(2 * 4 + 6), MultiDiscrete((3, 3)), ("a", "b"), 2, mask=6)
    env = Agents(Two())
    rng = np.random.default_rng(5)
    obs, _ = env.reset(seed=5)
    first = [rng.uniform(-1, 1, n).astype(np.float32) for n in (2, 3)]
    assert obs["observation"].tolist() == [[*first[0].tolist(), 0, 1], [*first[1].tolist(), 1]]
    assert obs["action_mask"].tolist() == [1, 1, 0, 1, 1, 1]
    _, reward, *over, _ = env.step([1, 1])
    assert (reward.tolist(), over) == ([1, 0.5], [False, False])
    obs, reward, *over, _ = env.step([2, 2])  # a has no third choice, so that is its second
    assert (reward.tolist(), over) == ([1, 1], [False, False])
    obs, reward, *over, _ = env.step([0, 2])
    assert obs["observation"][1].tolist() == [0, 0, 0, 0]  # b is dead
    assert obs["action_mask"].tolist() == [1, 1, 0, 1, 1, 1]
    obs, reward, *over, info = env.step([0, 2])
    assert (reward.tolist(), over, info) == ([0, 0], [False, True], {"a": {"load": 4.0}})
    assert obs["observation"][:, 3].tolist() == [1, 0]  # a was cut off, so it is worth something from there


def test_an_agent_is_worth_nothing_after_its_end_and_something_after_a_cut():
    world, feed = envs.world(Two), OffPolicy(0.9, 1, 4, 100, 0, 1.0)
    replay = Replay(world.spec, feed)
    collector = Collector(envs.vector(world, 1), world.spec, replay, 0)
    for _ in range(8):
        collector.step(None)
    rows = agents.Split(world.spec, told=False).batch(replay.at(torch.arange(8)))
    nine = pytest.approx(0.9)
    assert rows.discount.tolist() == [[nine, nine], [nine, nine], [nine, 0], [nine, 0]] * 2
    assert rows.obs.shape == (8, 2, 4 + 3)
    assert rows.obs[:, 0, -3:].tolist() == [[1, 1, 0]] * 8
    told = agents.Split(world.spec, told=True).obs(replay.at(torch.arange(8)).obs)
    assert told[0, :, 4:6].tolist() == [[1, 0], [0, 1]]


def test_a_learner_of_contexts_is_for_one_agent():
    learner = sac.make(sac.Config(hidden=(4,)), Spec(Box(4), Box(1)))
    drawn = dataclasses.replace(learner, context=lambda state, n, explore: torch.zeros(n, 2))
    with pytest.raises(Fault, match="agents is 'shared'; own draws contexts, and is for one agent alone"):
        agents.independent(drawn, "own", envs.world(Pushes).spec, "shared")


def alone(spec: Spec, rows: int = 64) -> Batch:
    """Transitions of one agent that stays alive."""
    g = torch.Generator().manual_seed(1)
    obs, after = torch.randn(2, rows, spec.obs.dim, generator=g)
    after[:, -1] = 1
    action = torch.randn(rows, spec.action.dim, generator=g).tanh()
    return Batch(obs, action, torch.randn(rows, generator=g), torch.full((rows,), 0.9), after)


def close(a: object, b: object, tolerance: float = 1e-6) -> None:
    one, other = leaves(a), leaves(b)
    assert one.keys() == other.keys()
    for name, x in one.items():
        torch.testing.assert_close(x, other[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("how", [agents.separate, agents.shared])
def test_one_agent_is_the_single_learner(how):
    spec = Spec(Box(4), Box(2))
    for single in (sac.make(sac.Config(hidden=(8,)), spec), ppo.make(ppo.Config(hidden=(8,)), spec)):
        many, states, rows = how(single, spec), [], []
        for learner in (single, many):
            torch.manual_seed(0)
            state, given = learner.init(), alone(spec)
            if learner.prepare:
                extra = {"ended": torch.arange(64) % 9 == 8, "return_std": torch.ones(64), "return_max": torch.ones(64)}
                given = tree_map(lambda x: x.unflatten(0, (32, 2)), replace(given, extra=extra))
                with torch.no_grad():
                    state, given, _ = learner.prepare(state, given)
            with torch.no_grad():
                for _ in range(3):
                    state, metrics = learner.update(state, given, 0)
                rows.append((learner.act(learner.policy(state), alone(spec).obs, True), metrics))
            states.append(state)
        wanted = states[0] if how is agents.shared else tree_map(lambda x: x[None], states[0])
        close(states[1], wanted)
        torch.testing.assert_close(rows[1][0], rows[0][0], rtol=1e-5, atol=1e-6)
        assert {k: float(v) for k, v in rows[1][1].items()} == pytest.approx(
            {k: float(v) for k, v in rows[0][1].items()}, rel=1e-4
        )


def test_an_agent_learns_from_its_own_rows_alone():
    world = Spec(Box(3 * 4), Box(3 * 2), ("a", "b", "c"), 3)
    single = ppo.make(ppo.Config(hidden=(8,), normalise_reward=False), agents.each(world, "separate"))
    learner = agents.separate(single, world)
    g = torch.Generator().manual_seed(0)
    obs, after = torch.randn(2, 5, 2, 12, generator=g)
    after.unflatten(-1, (3, 4))[..., 3] = 1
    reward, ended = torch.randn(5, 2, 3, generator=g), torch.zeros(5, 2, dtype=torch.bool)
    joint = Batch(obs, torch.randn(5, 2, 6, generator=g), reward, torch.full((5, 2, 3), 0.9), after, {"ended": ended})
    state = learner.init()
    with torch.no_grad():
        after_it = learner.update(*learner.prepare(state, joint)[:2], 0)[0]
        for i in range(3):
            mine = Batch(
                obs[..., 4 * i : 4 * i + 4], joint.action[..., 2 * i : 2 * i + 2], reward[..., i], torch.full((5, 2), 0.9),
                after[..., 4 * i : 4 * i + 4], {"ended": ended},
            )  # fmt: skip
            own, rows, _ = single.prepare(tree_map(lambda x, i=i: x[i], state), mine)
            close(tree_map(lambda x, i=i: x[i], after_it), single.update(own, rows, 0)[0], 1e-5)


@pytest.mark.parametrize("how", ["separate", "shared"])
def test_each_learns_its_own_best_choice_and_goes_on_bitwise(tmp_path: Path, how: str):
    options = QUIET | {"agents": how, "rollout": 64, "lr": 0.05, "hidden": (8,), "log_every": 128}
    run = thespis.train("ppo_discrete", Two, out=tmp_path / "whole", steps=384, checkpoint_every=192, eval_episodes=2, **options)
    found = {k: v[-1] for k, v in run.metrics().items()}
    assert [found[f"eval/return/{name}"] for name in "ab"] == [4, 3]  # b dies in its third step
    assert found["eval/return_mean"] == 7
    thespis.train("ppo_discrete", Two, out=tmp_path / "cut", steps=192, eval_episodes=0, **options)
    thespis.resume(tmp_path / "cut", 384, env=Two, panel=False, quiet=True)
    whole, cut = (load_file(tmp_path / name / "policy" / "last.safetensors") for name in ("whole", "cut"))
    assert [k for k in whole if not whole[k].equal(cut[k])] == []
    assert (whole["actor.w0"].ndim == 3) == (how == "separate")
    env, policy = Agents(Two()), thespis.load(run)
    obs, _ = env.reset(seed=1)
    assert policy.act(obs).tolist() == [1, 2]
    assert thespis.evaluate(run, 1, env=Two)["mean_returns"] == {"a": 4, "b": 3}


@pytest.mark.parametrize("how", ["separate", "shared"])
def test_sac_goes_on_bitwise(tmp_path: Path, how: str):
    options = QUIET | {"agents": how, "hidden": (8,), "batch_size": 16, "warmup": 30, "eval_episodes": 0, "num_envs": 2}
    options |= {"normalise_obs": True, "normalise_reward": True}
    for name, steps in ("whole", 80), ("cut", 60):
        thespis.train("sac", Pushes, out=tmp_path / name, steps=steps, checkpoint_every=60, **options)
    thespis.resume(tmp_path / "cut", 80, env=Pushes, panel=False, quiet=True)
    files = [next((tmp_path / name / "checkpoints").glob("*80")) / "tensors.safetensors" for name in ("whole", "cut")]
    whole, cut = map(load_file, files)
    assert [k for k in whole if not whole[k].equal(cut[k])] == []


def test_a_policy_of_several_is_exported(tmp_path: Path):
    from thespis.export import export
    from thespis.record import record

    tiny = QUIET | {"agents": "separate", "hidden": (4,), "batch_size": 8, "warmup": 8, "steps": 12, "eval_episodes": 0}
    run = thespis.train("sac", Pushes, out=tmp_path / "run", **tiny)
    made = export(run, "torch")
    assert made.outputs == {"action": "float32 (batch, 2, 1)"}
    assert made.difference < 1e-5
    assert record(run, tmp_path / "seen", replay=True, env=Pushes).steps == 12


def test_one_learner_may_do_it_all_by_weights(tmp_path: Path):
    run = thespis.train(
        "ppo_discrete", Two, weights={"a": 1, "b": 2}, out=tmp_path, steps=64, rollout=32, eval_episodes=1, **QUIET
    )
    found = {k: v[-1] for k, v in run.metrics().items()}
    assert found["eval/return_mean"] == found["eval/return/a"] + 2 * found["eval/return/b"]


class Unlike(Two):
    def action_space(self, agent):
        return spaces.Discrete(2) if agent == "a" else spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("algo", "env", "options", "told"),
    [
        ("ppo", Two, {}, r"Two has 2 rewards \(a, b\), and ppo learns from one: .*; or each agent a learner of its own"),
        ("ppo", Two, {"agents": "separate", "weights": (1, 1)}, "agents is 'separate'; weights makes one reward of the agents'"),
        ("ppo", Unlike, {"agents": "shared"}, r"action spaces are Discrete\(2\); Box\(.*; allowed: each a Discrete, or Boxes"),
        ("srl", Pushes, {"agents": "shared"}, "agents is 'shared'; srl remembers between steps"),
        ("sac", Pushes, {"agents": "shared", "frame_stack": 2}, "agents is 'shared'; frame_stack is for one learner alone"),
        ("sac", "pettingzoo:nowhere", {}, "env is 'pettingzoo:nowhere'; its module cannot be imported"),
        ("sac", "pettingzoo:json", {}, "env is 'pettingzoo:json'; json has no function parallel_env"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(tmp_path: Path, algo, env, options, told):
    with pytest.raises(Fault, match=told):
        thespis.train(algo, env, out=tmp_path / "run", **QUIET, **options)
    assert not (tmp_path / "run").exists()


def test_simple_spread_of_mpe2(tmp_path: Path):
    pytest.importorskip("mpe2")
    name, args = "pettingzoo:mpe2.simple_spread_v3", {"N": 2}
    world = envs.world(name, args)
    assert world.spec == Spec(Box(2 * 13), MultiDiscrete((5, 5)), ("agent_0", "agent_1"), 2, horizon=25)
    tiny = QUIET | {"warmup": 20, "batch_size": 8, "hidden": (8,), "steps": 30, "eval_episodes": 1, "eval_steps": 5}
    run = thespis.train("sac_discrete", name, agents="shared", env_args=args, out=tmp_path / "run", **tiny)
    assert list(thespis.evaluate(run, 1)["mean_returns"]) == ["agent_0", "agent_1"]
