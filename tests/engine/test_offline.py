"""Runs that learn from data alone: their clock, their exact resume, what they write, and every way to ask for what cannot be."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from tests.engine.runs import assert_equal
from thespis import cli
from thespis.core import Batch, Box, Fault, OffPolicy, Spec, leaves
from thespis.data import Dataset, Offline, Probe, Recorded, Replay, every_row
from thespis.engine import checkpoint

SMALL = {
    "hidden": (8,), "batch_size": 16, "steps": 90, "eval_every": 40, "log_every": 25, "checkpoint_every": 30,
    "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


def columns(steps=240, dim=3):
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(steps, dim)).astype(np.float32), rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    flags = {"terminals": np.arange(steps) % 30 == 29, "timeouts": np.arange(steps) % 30 == 14}
    return {"observations": obs, "actions": action, "rewards": action[:, 0], "next_observations": np.roll(obs, -1, 0), **flags}


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "log.npz", **columns())
    return tmp_path / "log.npz"


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# -------------------------------------------------------------------------------------------------------------- the clock


@pytest.mark.draws
def test_the_clock_counts_updates_and_nothing_is_evaluated_without_an_environment(data, tmp_path):
    result = thespis.train("td3_bc", data=data, out=tmp_path / "run", **SMALL)
    assert (result.finished, result.return_mean) == (True, None)
    table = rows(result.path)
    assert [r["step"] for r in table if "time/updates" in r] == [25, 50, 75, 90]
    assert all(r["step"] == r["time/updates"] for r in table if "time/updates" in r)
    assert not any(k.startswith("eval/") for r in table for k in r)
    assert [r["step"] for r in table if "data/value" in r] == [0, 40, 80, 90]
    newest = load_file(checkpoint.checkpoints(result.path)[-1] / "tensors.safetensors")
    assert int(newest["state.critic.t"]) == 90
    assert int(newest["state.actor.t"]) == 45
    assert not (result.path / "replay").exists()
    assert {p.stem for p in (result.path / "policy").glob("*.safetensors")} == {"last"}
    page = (result.path / "report/index.html").read_text()
    for words in ("Value against the data", "return that came", "updates / s"):
        assert words in page
    assert "environment steps" not in page
    about = json.loads((result.path / "config.json").read_text())
    assert (about["run"]["env"], about["no_env"]) == ("log", True)


def test_where_there_is_an_environment_it_evaluates(tmp_path):
    given = columns() | {"env": "Pendulum-v1"}
    given |= {"actions": given["actions"][:, :1]}
    result = thespis.train("bc", data=given, out=tmp_path / "run", eval_episodes=1, **SMALL)
    assert result.return_mean is not None
    assert [r["step"] for r in rows(result.path) if "eval/return_mean" in r] == [0, 40, 80, 90]
    assert {p.stem for p in (result.path / "policy").glob("*.safetensors")} == {"first", "best", "last"}
    assert len(thespis.evaluate(result, episodes=2)["returns"]) == 2
    assert len(thespis.compare(result.path)["groups"]) == 1


def test_a_run_in_two_parts_is_bitwise_the_run_in_one(data, tmp_path):
    for name, extra in (("prdc", {"keys": 50}), ("sac", {"offline": True, "n_step": 3})):
        whole = thespis.train(name, data=data, out=tmp_path / f"{name}-whole", **SMALL | extra)
        part = thespis.train(name, data=data, out=tmp_path / f"{name}-part", **SMALL | extra | {"steps": 37})
        thespis.resume(part, steps=90, panel=False)
        assert state(whole.path) == state(part.path)


def state(folder):
    newest = load_file(checkpoint.checkpoints(folder)[-1] / "tensors.safetensors")
    return {k: v.numpy().tobytes() for k, v in newest.items() if k.startswith(("state", "rng"))}


def test_arrays_are_given_again_to_resume_and_checked_by_their_numbers(tmp_path):
    whole = thespis.train("iql", data=columns(), out=tmp_path / "whole", **SMALL)
    part = thespis.train("iql", data=columns(), out=tmp_path / "part", **SMALL | {"steps": 37})
    with pytest.raises(Fault, match=r"^data: .* was given arrays for data; give them again, from Python$"):
        thespis.resume(part, steps=90, panel=False)
    other = columns() | {"rewards": np.zeros(240)}
    with pytest.raises(Fault, match="has changed since"):
        thespis.resume(part, steps=90, data=other, panel=False)
    thespis.resume(part, steps=90, data=columns(), panel=False)
    assert state(whole.path) == state(part.path)
    np.savez(tmp_path / "log.npz", **columns())
    named = thespis.train("bc", data=tmp_path / "log.npz", out=tmp_path / "named", **SMALL)
    with pytest.raises(Fault, match="was given none; give none"):
        thespis.resume(named, steps=100, data=columns(), panel=False)


@pytest.mark.draws
def test_the_same_run_twice_is_the_same(data, tmp_path):
    for name in ("a", "b"):
        thespis.train("odice", data=data, out=tmp_path / name, **SMALL)
    assert_equal(tmp_path / "a", tmp_path / "b")
    assert "Effective sample" in (tmp_path / "a/report/index.html").read_text()


def test_policies_act_and_are_exported_without_data(data, tmp_path):
    result = thespis.train("td3_bc", data=data, out=tmp_path / "run", **SMALL)
    data.unlink()
    policy = thespis.load(result)
    action = policy.act(np.zeros(3, np.float32))
    assert action.shape == (2,)
    from thespis.export import export

    assert export(result.path, "torch").difference < 1e-4


def test_from_the_command_line(data, tmp_path, capsys):
    args = ["--hidden", "8", "--compile-after", "-1", "--sinks", "--steps", "30"]
    assert cli.main(["train", "td3_bc", "--data", str(data), "--out", str(tmp_path / "a"), *args]) == 0
    assert cli.main(["train", "td3", "--offline", "--data", str(data), "--out", str(tmp_path / "b"), *args]) == 0
    assert cli.main(["resume", str(tmp_path / "a"), "--steps", "40"]) == 0
    assert cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "a")]) == 2
    assert "recorded data" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("algo", "options", "told"),
    [
        ("td3_bc", {"data": None}, "data: td3_bc learns from recorded data here: name a dataset with data"),
        ("ppo", {"offline": True}, "offline: ppo is on-policy, and cannot learn from data alone; take an off-policy algorithm"),
        (
            "td3_bc",
            {"num_envs": 2},
            "num_envs: a run that learns from data alone takes no steps, and has one learner; leave it out",
        ),
        ("td3_bc", {"collectors": 1}, "collectors: a run that learns"),
        ("sac", {}, "env: sac takes steps, and log is recorded data: name an environment, or give offline"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(data, tmp_path, algo, options, told):
    given = {"data": data} | options
    with pytest.raises(Fault) as fault:
        thespis.train(algo, out=tmp_path / "run", steps=10, **given)
    assert str(fault.value).startswith(told)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ what is drawn


def dataset():
    """Episodes of 3, 2 and 4 steps; the middle one terminates."""
    obs = np.arange(9, dtype=np.float32)[:, None]
    terminated = np.isin(np.arange(9), [4])
    return Dataset(
        obs,
        10 + obs,
        np.arange(9, dtype=np.float32),
        terminated,
        np.array([3, 2, 4]),
        np.array([[100], [200], [300]], np.float32),
    )


SPEC = Spec(Box(1), Box(1))


def test_rows_are_those_of_a_replay_with_the_same_steps():
    feed = Offline(gamma=0.9, n_step=2, batch_size=4000)
    recorded = Recorded(SPEC, feed, dataset(), seed=3)
    assert len(recorded) == 9
    by_hand = []
    for t, end, over in ((0, 2, False), (1, 2, False), (2, 2, False), (3, 4, True), (4, 4, True), (5, 8, False), (8, 8, False)):
        steps = range(t, min(t + 2, end + 1))
        last = steps[-1]
        after = {2: 100, 4: 200, 8: 300}.get(last, last + 1)
        discount = 0.0 if over and last == 4 else 0.9 ** len(steps)
        by_hand.append((t, 10 + t, sum(0.9**i * u for i, u in enumerate(steps)), discount, after))
    b = recorded.sample()
    for obs, action, reward, discount, after in by_hand:
        at = (b.obs[:, 0] == obs).nonzero()[0, 0]
        found = [float(x[at].reshape(())) for x in (b.action, b.reward, b.discount, b.next_obs)]
        np.testing.assert_allclose(found, [action, reward, discount, after], rtol=1e-6)
    counts = torch.bincount(b.obs[:, 0].long(), minlength=9).numpy()
    assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 26  # chi square of 8 degrees: 26 is once in a thousand


def test_the_generator_is_all_that_a_checkpoint_needs():
    feed = Offline(0.9, 1, 8)
    one, two = (Recorded(SPEC, feed, dataset(), seed) for seed in (1, 2))
    one.sample()
    two.rng.set_state(one.rng.get_state())
    for _ in range(3):
        assert torch.equal(one.sample().obs, two.sample().obs)


def test_demonstrations_and_return_scales_are_those_of_a_live_run():
    feed = Offline(0.9, 1, 40, demo_fraction=0.5, demo_slice=(0.6, 1.0))
    needs = frozenset({"demo", "return_scale", "previous"})
    b = Recorded(SPEC, feed, dataset(), 0, needs).sample()
    assert b.extra["demo"].sum() == 20
    assert bool((b.obs[:20, 0] >= 3).all())  # of the two best episodes
    assert bool((b.obs[20:, 0] < 3).any())
    replay = Replay(SPEC, OffPolicy(0.9, 1, 40, 100, 0, 1.0), needs=frozenset({"return_scale"}))
    data, ends = dataset(), {2, 4, 8}
    for t in range(9):
        over = np.array([t in ends])
        replay.add(
            data.obs[t : t + 1], data.action[t : t + 1], data.reward[t : t + 1], data.terminated[t : t + 1], over, data.last[:1]
        )
    live = replay.sample()
    for name in ("return_std", "return_max"):
        assert float(b.extra[name][0]) == pytest.approx(float(live.extra[name][0]), rel=1e-5)
    previous = dict(zip(b.obs[:, 0].tolist(), b.extra["previous"][:, 0].tolist(), strict=True))
    assert {t: p for t, p in previous.items() if t in (3, 4, 6)} == {
        t: {3: 0, 4: 13, 6: 15}[t] for t in (3, 4, 6) if t in previous
    }


def test_every_row_comes_with_its_episodes_return():
    rows = every_row(SPEC, Offline(0.9, 1, 4), dataset())
    assert rows.obs[:, 0].tolist() == list(range(9))
    assert rows.extra["episode_return"].tolist() == [3.0] * 3 + [7.0] * 2 + [26.0] * 4
    assert list(leaves(rows)) == [*leaves(Batch(*(rows.obs,) * 5)), "extra.episode_return"]


def test_the_return_that_came():
    """By hand: gamma 0.5; where an episode was cut off, the critic's word on its last step follows."""
    probe = Probe(Recorded(SPEC, Offline(0.5, 1, 4), dataset()))
    told = probe(lambda obs, action: 10 * obs[:, 0], lambda obs: obs)
    wanted, ends = [], {0: (2, None), 3: (4, 4), 5: (8, None)}
    for first, (last, reward) in ends.items():
        for t in range(first, last + 1):
            end = reward if reward is not None else 10 * last
            wanted.append(sum(0.5 ** (u - t) * u for u in range(t, last)) + 0.5 ** (last - t) * end)
    assert told["return"] == pytest.approx(np.mean(wanted))
    assert told["value"] == told["policy_value"] == 40


def test_a_live_run_may_begin_with_a_file_of_columns(data, tmp_path):
    given = columns() | {"actions": columns()["actions"][:, :1], "env": "Pendulum-v1"}
    result = thespis.train(
        "sac", data=given, out=tmp_path / "run", warmup=0, eval_episodes=1, **SMALL | {"steps": 30, "checkpoint_every": 15}
    )
    assert result.return_mean is not None
    assert json.loads((result.path / "config.json").read_text())["own_data"] is True


def test_choices_are_cloned_from_whole_numbers(tmp_path):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(400, 2)).astype(np.float32)
    given = {"observations": obs, "actions": (obs[:, 0] > 0).astype(int) + 1, "rewards": np.zeros(400), "terminals": np.ones(400)}
    result = thespis.train("bc", data=given, out=tmp_path / "run", lr=1e-2, **SMALL | {"steps": 150})
    policy = thespis.load(result)
    assert policy.action_space == spaces.Discrete(3)
    assert np.mean([policy.act(o) == (o[0] > 0) + 1 for o in obs[:100]]) > 0.9
