"""Acting step by step: who sees what when, and what is remembered in between."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from thespis import envs
from thespis.core import Box, Learner, OffPolicy, Spec
from thespis.engine.act import Actor
from thespis.engine.loop import train
from thespis.engine.run import Run

FEED = OffPolicy(gamma=0.9, n_step=1, batch_size=4, replay_size=100, warmup=0, updates_per_step=1.0)
SPEC = Spec(Box(1), Box(1))


def learner(memory=None, act=None):
    return Learner(dict, lambda s, b, k: (s, {}), dict, act or (lambda p, obs, explore: obs * 2), {}, FEED, memory=memory)


def counting():
    """Acts obs + 10 * (steps since the episode began), and notes what it was told."""
    told = []

    def act(policy, obs, explore, memory, look):
        told.append((obs.flatten().tolist(), look.tolist()))
        return obs + 10 * memory["t"][:, None], {"t": memory["t"] + 1}

    return learner(lambda n: {"t": torch.zeros(n)}, act), told


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_without_memory_the_action_is_repeated_until_the_next_look():
    actor = Actor(learner(), 1, every=3)
    actions = [float(actor({}, column(t), False)) for t in range(7)]
    assert actions == [0, 0, 0, 6, 6, 6, 12]


def test_memory_goes_on_between_looks_and_begins_anew_with_an_episode():
    made, told = counting()
    actor = Actor(made, 2, every=2)
    assert actor({}, column(1, 2), False).flatten().tolist() == [1, 2]
    assert actor({}, column(3, 4), False).flatten().tolist() == [11, 12]  # still sees 1 and 2
    actor.begin(torch.tensor([1]))
    assert actor({}, column(5, 6), False).flatten().tolist() == [25, 6]
    assert actor({}, column(7, 8), False).flatten().tolist() == [35, 16]
    assert told == [([1, 2], [True, True]), ([1, 2], [False, False]), ([5, 6], [True, True]), ([5, 6], [False, False])]
    actor.begin(torch.tensor([1]))
    assert actor({}, column(9, 10), False).flatten().tolist() == [49, 10]
    assert actor({}, column(9, 11), False).flatten().tolist() == [59, 20]


def test_rows_keep_their_own_memory():
    made, _ = counting()
    actor = Actor(made, 3)
    actor({}, column(0, 0, 0), False)
    assert actor({}, column(1, 2), False, torch.tensor([0, 2])).flatten().tolist() == [11, 12]
    assert actor({}, column(1, 1, 1), False).flatten().tolist() == [21, 11, 21]


def test_saved_and_restored_it_goes_on_the_same():
    made, _ = counting()
    one, other = Actor(made, 2, every=2), Actor(made, 2, every=2)
    one({}, column(1, 2), False)
    other.restore({k: v.clone() for k, v in one.save().items()}, 1)
    for t in range(3):
        assert torch.equal(one({}, column(t, -t), False), other({}, column(t, -t), False))
    assert Actor(learner(), 4).save() == {}  # without memory there is nothing to keep


@pytest.mark.parametrize("every", [1, 3])
def test_a_learner_is_never_asked_for_a_gradient(every):
    def act(policy, obs, explore):
        assert not torch.is_grad_enabled()
        return obs

    Actor(learner(act=act), 1, every)({}, column(1), True)


def test_a_run_looks_as_often_as_its_learner_says_and_resumes_its_memory(tmp_path):
    """Actions are t since the last look, in hundredths: the rows in replay show it, across episodes and a stop."""

    def act(policy, obs, explore, memory, look):
        since = torch.where(look, 0.0, memory["since"] + 1)
        return since[:, None] / 100, {"since": since}

    made = learner(lambda n: {"since": torch.zeros(n)}, act)
    made = replace(
        made, init=lambda: {"x": torch.zeros(1)}, policy=lambda s: s, update=lambda s, b, k: (s, {"x": s["x"].mean()}),
        experience=replace(FEED, look_every=3),
    )  # fmt: skip
    world = envs.world("thespis/Counter-v0")
    run = Run(env="thespis/Counter-v0", steps=5, compile_after=-1, sinks=(), eval_every=100)
    train(made, world, run, tmp_path, {}, panel=False)
    train(made, world, replace(run, steps=40), tmp_path, {}, resume=True, panel=False)
    parts = [load_file(p) for p in sorted((tmp_path / "replay").glob("*.safetensors"))]
    actions = torch.cat([p["action"] for p in parts]).flatten() * 100
    ended = torch.cat([p["ended"] for p in parts])
    age, wanted = 0, []
    for over in ended.tolist():
        wanted.append(age % 3)
        age = 0 if over else age + 1
    assert len(wanted) == 40
    assert actions.round().int().tolist() == wanted


def test_a_run_starts_its_tensors_anew_and_keeps_the_replay(tmp_path):
    """Each update adds one; every fourth ends in a new start from init, whose draws differ."""
    starts, before = [], []

    def init():
        starts.append(float(torch.rand(())))
        return {"x": torch.full((1,), starts[-1])}

    def update(s, b, k):
        before.append(round(float(s["x"]), 6))
        return {"x": s["x"] + 1}, {"x": s["x"].mean()}

    made = learner(act=lambda p, obs, explore: torch.zeros(len(obs), 1))
    made = replace(made, init=init, policy=lambda s: s, update=update, experience=replace(FEED, reset_every=4))
    run = Run(env="thespis/Counter-v0", steps=10, compile_after=-1, sinks=(), eval_every=100)
    train(made, envs.world("thespis/Counter-v0"), run, tmp_path, {}, panel=False)
    assert len(set(starts)) == 3
    assert before == pytest.approx([s + i for s, n in zip(starts, (4, 4, 2), strict=True) for i in range(n)], abs=1e-5)
    assert sum(len(load_file(p)["ended"]) for p in (tmp_path / "replay").glob("*.safetensors")) == 10
