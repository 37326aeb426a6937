"""A run that goes on, or from which another begins: what may be other than before, and what is said of it."""

import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from datetime import datetime

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint, origin

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


# ------------------------------------------------------------------------------------------------------------ what changes


def about(folder):
    return json.loads((folder / "config.json").read_text())


def state(folder):
    newest = checkpoint.checkpoints(folder)[-1]
    return {k: v for k, v in load_file(newest / "tensors.safetensors").items() if k.startswith("state.")}


def same(a, b):
    return a.keys() == b.keys() and all(x.equal(b[k]) for k, x in a.items())


def test_what_only_watches_a_run_is_taken_and_leaves_its_tensors(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    thespis.resume(run, 30, env=Bounded, panel=False)
    watching = {"eval_every": 5, "eval_episodes": 3, "log_every": 7, "checkpoint_every": 9, "keep": 1, "max_hours": 2.0}
    thespis.resume(other, 30, env=Bounded, panel=False, **watching)
    assert same(state(run), state(other))
    assert {k: about(other)["run"][k] for k in watching} == watching
    assert "changes" not in about(other)
    assert "another run" not in capsys.readouterr().out
    returns = [
        row["eval/returns"]
        for row in map(json.loads, (other / "metrics.jsonl").read_text().splitlines())
        if "eval/returns" in row
    ]
    assert [len(r) for r in returns] == [1, 1, 3, 3, 3]  # at 0 and 18, then at 20, 25 and 30


def test_what_is_learnt_with_may_change_and_is_written_down(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    thespis.resume(run, 30, env=Bounded, panel=False)
    thespis.resume(other, 30, env=Moved, panel=False, lr=1e-9, batch_size=2)
    told = [line for line in capsys.readouterr().out.splitlines() if "another run" in line]
    words = "env Bounded -> Moved, batch_size 4 -> 2, lr 0.0003 -> 1e-09"
    assert [sorted(line.partition(":")[0].split(", ")) for line in told] == [sorted(words.split(", "))]
    assert "from step 18 on it is another run" in told[0]
    fields = {"env": ["Bounded", "Moved"], "batch_size": [4, 2], "lr": [3e-4, 1e-9]}
    assert about(other)["changes"] == [{"step": 18, "fields": fields}]
    assert (about(other)["algo_config"]["lr"], about(other)["run"]["env"]) == (1e-9, "Moved")
    assert about(other)["title"] == "sac on Moved, seed 0"
    before = state(other)
    thespis.resume(other, 32, env=Moved, panel=False)
    moved = max((x - before[k]).abs().max() for k, x in state(other).items() if ".params." in k)
    assert 0 < moved < 1e-7  # two steps of 1e-9 each: the new step size is the one that goes on
    assert len(about(other)["changes"]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 3}, "seed is 3 and was 0; a run cannot change it: begin another with --start-from"),
        ({"num_envs": 2}, "num_envs is 2 and was 1"),
        ({"hidden": (8,)}, "does not fit this environment and configuration: actor.m.b0 is (4,) torch.float32, wanted (8,)"),
        ({"warmup": 0}, "warmup: .* has made 8 updates by step 18, and this would have been 18; it cannot change on the way"),
        ({"updates_per_step": 2.0}, "updates_per_step: .* has made 8 updates by step 18, and this would have been 16"),
        ({"lern": 1}, "lern is not an option of sac"),
        ({"lr": -1}, "lr is -1"),
        ({"replay_size": 10**6 - 1}, None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_changed(run, options, words):
    before = (run / "config.json").read_bytes(), state(run)
    if words is None:
        thespis.resume(run, env=Bounded, panel=False, **options)
        assert about(run)["changes"][0]["fields"] == {"replay_size": [10**6, 10**6 - 1]}
        return
    assert re.search(
        words.replace("(", r"\(").replace(")", r"\)"), refused(thespis.resume, run, 30, env=Bounded, panel=False, **options)
    )
    assert (run / "config.json").read_bytes() == before[0]
    assert same(state(run), before[1])


def test_a_schedule_that_comes_on_the_way_goes_over_the_run(run):
    thespis.resume(run, 30, env=Bounded, panel=False, lr="linear:1e-3")
    assert about(run)["schedule_updates"] == 20  # 30 steps, 10 of warm-up
    thespis.resume(run, 40, env=Bounded, panel=False)
    assert about(run)["schedule_updates"] == 20


# ------------------------------------------------------------------------------------------------- beginning with networks


def test_a_run_begins_with_the_networks_of_another_and_nothing_else_of_it(run, tmp_path, capsys):
    options = TINY | {"steps": 10, "env_timeout": None}  # all of it warm-up: no update
    new = thespis.train("sac", Moved, out=tmp_path / "new", start_from=run, lr=1.0, seed=5, **options).path
    old, now = state(run), state(new)
    learnt = {k for k in now if ".params." in k or ".target" in k}
    assert len(learnt) > 8
    assert all(now[k].equal(old[k]) for k in learnt)
    rest = now.keys() - learnt
    assert any(old[k].any() for k in rest)
    assert not any(now[k].any() for k in rest)  # moments and counters begin anew
    assert "begins with the networks of another run (sac on Bounded, seed 0, step 18)" in capsys.readouterr().out
    assert about(new)["start"] == {"run": str(run.resolve()), "title": "sac on Bounded, seed 0", "step": 18}
    assert "start" not in about(run)
    shutil.rmtree(new / "checkpoints")
    shutil.rmtree(new / "policy")  # as one that was killed before its first checkpoint
    thespis.resume(new, env=Moved, panel=False)
    assert all(state(new)[k].equal(old[k]) for k in learnt)


def test_of_a_policy_alone_the_policy_is_taken(run, tmp_path, capsys):
    shutil.rmtree(run / "checkpoints")
    new = thespis.train("sac", Bounded, out=tmp_path / "new", start_from=str(run), **TINY | {"steps": 10}).path
    assert same(load_file(run / "policy/last.safetensors"), load_file(new / "policy/last.safetensors"))
    assert "begins with the policy, and nothing else, of another run" in capsys.readouterr().out


def test_networks_that_do_not_fit_are_refused_before_anything_is_written(run, tmp_path):
    out = tmp_path / "new"
    said = refused(thespis.train, "sac", Bounded, out=out, start_from=run, **TINY | {"hidden": (8,)})
    assert "actor.params.b0 is (4,) torch.float32, wanted (8,)" in said
    assert "does not exist" in refused(thespis.train, "sac", Bounded, out=out, start_from=tmp_path / "none", **TINY)
    assert "does not fit" in refused(thespis.train, "ppo", Bounded, out=out, start_from=run, sinks=(), panel=False)
    assert not out.exists()


# --------------------------------------------------------------------------------------------------------- the same again


def test_a_command_is_given_twice(run, tmp_path):
    (run / "notes.txt").write_text("mine")
    (run / "videos").symlink_to(tmp_path)
    said = refused(thespis.train, "sac", Bounded, out=run, **TINY)
    assert "resume" in said
    assert "overwrite=True" in said
    assert about(run)["run"]["steps"] == 18
    thespis.train("sac", Bounded, out=run, overwrite=True, **TINY | {"seed": 4})
    assert (about(run)["run"]["seed"], len(checkpoint.checkpoints(run))) == (4, 1)
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "videos").exists()
    assert tmp_path.exists()


def test_a_directory_without_a_step_is_taken_over(run):
    for part in ("checkpoints", "policy", "replay"):
        shutil.rmtree(run / part)
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(first + "\n")  # killed after the evaluation at step 0
    assert thespis.train("sac", Bounded, out=run, **TINY).finished


def test_what_is_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "config.json").write_text("{}")
    said = refused(thespis.train, "sac", Bounded, out=tmp_path, overwrite=True, **TINY)
    assert "is no run directory" in said
    assert (tmp_path / "report").exists()
    (tmp_path / "file").touch()
    assert "is a file" in refused(thespis.train, "sac", Bounded, out=tmp_path / "file", overwrite=True, **TINY)


# ------------------------------------------------------------------------------------------------------- where it is from


def test_a_run_says_where_it_is_from_and_its_policies_do_not(run, monkeypatch):
    import platform
    import socket

    import torch

    found = about(run)
    file = thespis.algorithms()["sac"].file
    assert found["algo_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["run_defaults"]["eval_every"] == 10_000
    made = found["origin"]
    assert (made["host"], made["python"], made["torch"]) == (socket.gethostname(), platform.python_version(), torch.__version__)
    assert abs(datetime.fromisoformat(made["date"]).timestamp() - time.time()) < 3600
    assert not [p for p in (run / "policy").glob("*.json") if "origin" in json.loads(p.read_text())]


def test_an_old_run_that_says_less_still_opens(run):
    less = {k: v for k, v in about(run).items() if k not in ("origin", "algo_sha256", "run_defaults")}
    (run / "config.json").write_text(json.dumps(less))
    thespis.resume(run, 20, env=Bounded, panel=False)
    assert "changes" not in about(run)


def test_the_commit_is_read_from_gits_files(tmp_path):
    """As `git rev-parse HEAD` says it: of a branch, of a packed one, of a worktree; else None."""
    assert origin.commit(tmp_path) is None
    git, place = tmp_path / ".git", tmp_path / "a" / "b"
    place.mkdir(parents=True)
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert origin.commit(place) is None  # no commit yet
    (git / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/main\n")
    assert origin.commit(place) == "b" * 40
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/main").write_text("a" * 40 + "\n")
    assert origin.commit(place) == "a" * 40
    tree = git / "worktrees/b"
    tree.mkdir(parents=True)
    (place / ".git").write_text(f"gitdir: {tree}\n")
    (tree / "HEAD").write_text("ref: refs/heads/main\n")
    (tree / "commondir").write_text("../..\n")
    assert origin.commit(place) == "a" * 40
    (tree / "HEAD").write_text("c" * 40 + "\n")
    assert origin.commit(place) == "c" * 40
    (tree / "HEAD").write_text("/etc/passwd\n")
    assert origin.commit(place) is None


def test_an_algorithm_file_that_was_edited_on_the_way_is_told(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(thespis.algorithms()["sac"].file.read_text())
    thespis.train(file, Bounded, out=tmp_path / "run", **TINY)
    file.write_text(file.read_text() + "\n# another line\n")
    thespis.resume(tmp_path / "run", 22, env=Bounded, algo=str(file), panel=False)
    assert "algo_sha256" in capsys.readouterr().out
    assert about(tmp_path / "run")["changes"][0]["fields"].keys() == {"algo_sha256"}
    assert about(tmp_path / "run")["algo_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------------- the command line

MODULE = """
import gymnasium
from tests_bounded import Bounded

gymnasium.register("tests/OnTheWay-v0", Bounded)
"""


def test_what_is_printed_to_go_on_goes_on(tmp_path, monkeypatch, capsys):
    """From a fresh shell's view: the module, the algorithm's file and a path with a space in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tests_bounded", sys.modules[__name__])
    (tmp_path / "on_the_way.py").write_text(MODULE)
    (tmp_path / "my sac.py").write_text(thespis.algorithms()["sac"].file.read_text())
    numbers = shlex.split("--steps 20 --warmup 10 --hidden 4 --batch-size 4 --eval-every 20 --eval-episodes 1 --compile-after -1")
    env = ["--env", "on_the_way:tests/OnTheWay-v0"]
    train = ["train", "my sac.py", *env, *numbers, "--sinks", "tensorboard", "--out", "a run"]
    assert cli.main(train) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "go on    thespis resume 'a run' --algo 'my sac.py' --env on_the_way:tests/OnTheWay-v0 --steps 40"
    assert cli.main(train) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*train, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    words = shlex.split(line.removeprefix("go on    thespis"))
    words[-1] = "22"
    assert cli.main([*words, "--lr", "1e-4", "--eval-episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "lr 0.0003 -> 0.0001: from step 20 on it is another run" in out
    assert out.splitlines()[-1] == line.replace("40", "44")
    assert about(tmp_path / "a run")["run"]["eval_episodes"] == 2
    assert "changes" in about(tmp_path / "a run")
    thespis.resume("a run", 23, env="tests/OnTheWay-v0", algo="my sac.py", panel=False)
    assert len(about(tmp_path / "a run")["changes"]) == 1  # it is registered by now, so its module need not be named
    assert cli.main([*words, "--quiet", "--seed", "9"]) == 2
    assert "seed is 9 and was 0" in capsys.readouterr().err
    assert cli.main(["train", "sac", *env, *numbers, "--start-from", "a run", "--out", "new"]) == 0
    assert "begins with the networks of another run" in capsys.readouterr().out


def test_resumes_help_has_the_runs_own_numbers(run, capsys):
    with pytest.raises(SystemExit):
        cli.main(["resume", str(run), "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--algo.batch-size" in said
    assert "(default: 18)" in said  # its steps
