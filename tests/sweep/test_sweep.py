"""Sweeps: which runs there are, what is done again after an end of any kind, and what is refused before it begins."""

import contextlib
import csv
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.engine.cluster import cluster
from thespis.engine.lock import alone
from thespis.sweep import pool as pools
from thespis.sweep.axes import Axis
from thespis.sweep.search import propose

module = importlib.import_module("thespis.sweep.sweep")  # thespis.sweep is the function, in its package too

ENV = "thespis/Counter-v0"
SMALL = {
    "hidden": (8,), "batch_size": 8, "warmup": 20, "steps": 40, "eval_every": 20, "eval_episodes": 1, "log_every": 20,
    "checkpoint_every": 20, "compile_after": -1, "sinks": (),
}  # fmt: skip


class Inside:
    """A pool in this process: what is started is done at once."""

    slots = 1
    started = ()
    crash_after = 10**6

    def __init__(self):
        self.ended = []

    @property
    def busy(self):
        return len(self.ended)

    def start(self, job):
        if len(self.started) == self.crash_after:
            raise KeyboardInterrupt
        self.started.append("/".join(Path(job["folder"]).parts[-2:]))
        with contextlib.redirect_stdout(None):
            self.ended.append((job, pools.work(job)))

    def wait(self, seconds):
        return self.ended.pop()

    def stop(self):
        pass

    def close(self):
        pass


@pytest.fixture
def inside(monkeypatch):
    """The class of the pool; `started` is what it was asked for, in order."""
    monkeypatch.setattr(Inside, "started", [])
    monkeypatch.setattr(Inside, "crash_after", 10**6)
    monkeypatch.setattr(module, "OneByOne", Inside)
    monkeypatch.setattr("thespis.training._draw", lambda folder: None)  # the pictures of each run have tests of their own
    return Inside


def swept(out, over=None, **options):
    return thespis.sweep("sac", ENV, over=over, out=out, say=lambda line: None, **SMALL | {"seeds": 1} | options)


def tensors(run):
    """Everything that a finished run has learnt."""
    return load_file(checkpoint.checkpoints(run)[-1] / "tensors.safetensors")


def assert_bitwise(a, b):
    x, y = tensors(a), tensors(b)
    assert x.keys() == y.keys()
    assert [k for k in x if not x[k].equal(y[k])] == []


# -------------------------------------------------------------------------------------------------------------- a grid


def test_a_grid_is_every_combination_with_every_seed(inside, tmp_path):
    found = swept(tmp_path, {"algo.lr": [1e-4, 3e-4], "num-envs": "1,2"}, seeds=2, seed=3)
    had = []
    for file in tmp_path.glob("*/*/config.json"):
        about = json.loads(file.read_text())
        lr, envs, seed = about["algo_config"]["lr"], about["run"]["num_envs"], about["run"]["seed"]
        assert file.parent == tmp_path / f"lr={lr:g},num_envs={envs}" / f"seed-{seed}"
        had.append((lr, envs, seed))
    assert sorted(had) == sorted(itertools.product((1e-4, 3e-4), (1, 2), (3, 4)))
    assert len(inside.started) == 8
    assert found["finished"]
    assert found["failed"] == []
    for row in found["settings"]:
        last = [json.loads((tmp_path / row["folder"] / f"seed-{s}/policy/last.json").read_text()) for s in (3, 4)]
        assert row["scores"] == {"3": last[0]["return_mean"], "4": last[1]["return_mean"]}
        assert row["iqm"] == row["mean"] == pytest.approx(np.mean([x["return_mean"] for x in last]))
        assert row["interval95"] == pytest.approx(sorted(row["scores"].values()))  # of two, the bootstrap's ends are they
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert {(float(r["lr"]), int(r["num_envs"])) for r in rows} == {(a, b) for a, b, _ in had}
    assert [float(r["iqm"]) for r in rows] == sorted((r["iqm"] for r in found["settings"]), reverse=True)
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    assert (tmp_path / "summary.png").read_bytes()[:4] == b"\x89PNG"


def test_schedules_are_swept_and_found_again(inside, tmp_path):
    found = swept(tmp_path, {"lr": "1e-3,linear:1e-3"})
    assert [row["values"] for row in found["settings"]] == [{"lr": 1e-3}, {"lr": "linear:0.001"}]
    about = json.loads((tmp_path / found["settings"][1]["folder"] / "seed-0/config.json").read_text())
    assert about["algo_config"]["lr"] == "linear:0.001"
    begun = len(inside.started)
    assert swept(tmp_path, {"lr": [1e-3, "linear:1e-3:0"]}) == found
    assert len(inside.started) == begun == 2


def test_without_settings_it_is_many_seeds(inside, tmp_path):
    found = swept(tmp_path, seeds=3)
    assert sorted(p.name for p in tmp_path.glob("seed-*")) == ["seed-0", "seed-1", "seed-2"]
    assert [r["seeds"] for r in found["settings"]] == [3]


def test_the_same_again_trains_nothing_and_more_of_it_only_what_is_new(inside, tmp_path):
    first = swept(tmp_path, {"lr": "1e-4,3e-4"})
    assert len(inside.started) == 2
    assert swept(tmp_path, {"lr": "1e-4,3e-4"}) == first
    assert len(inside.started) == 2
    swept(tmp_path, {"lr": "1e-4,3e-4,1e-3"}, seeds=2)
    assert sorted(inside.started[2:]) == ["lr=0.0001/seed-1", "lr=0.0003/seed-1", "lr=0.001/seed-0", "lr=0.001/seed-1"]


def test_what_ended_between_runs_goes_on(inside, tmp_path):
    inside.crash_after = 1
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, {"lr": "1e-4,3e-4,1e-3"})
    inside.crash_after = 10**6
    assert len(swept(tmp_path, {"lr": "1e-4,3e-4,1e-3"})["settings"]) == 3
    assert sorted(inside.started) == ["lr=0.0001/seed-0", "lr=0.0003/seed-0", "lr=0.001/seed-0"]


@pytest.mark.parametrize(
    ("over", "options", "words"),
    [
        ({"lr": "1e-4,1e-3"}, {}, "it has lr 0.0003 too"),
        ({"tau": "0.01"}, {}, "it is over lr, here tau"),
        ({"lr": "1e-4,3e-4"}, {"steps": 60}, "its steps is 40, here 60"),
        ({"lr": "1e-4,3e-4"}, {"tau": 0.01}, "its tau is 0.005, here 0.01"),
        ({"lr": "1e-4,3e-4"}, {"seed": 1}, "it has seed 0 too"),
        ({"lr": "1e-4,3e-4"}, {"search": 2}, "it is a grid"),
    ],
)
def test_another_sweep_in_its_place_is_refused(inside, tmp_path, over, options, words):
    swept(tmp_path, {"lr": "1e-4,3e-4"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Fault, match=f"holds another sweep: {words}; give another with --out"):
        swept(tmp_path, over, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_was_changed_and_a_folder_of_others_are_refused(inside, tmp_path):
    swept(tmp_path / "a", {"lr": "1e-4"})
    file = tmp_path / "a/sweep.json"
    file.write_text(file.read_text().replace('"steps": 40', '"steps": 60'))
    with pytest.raises(Fault, match=r"sweep.json is damaged: its checksum"):
        swept(tmp_path / "a", {"lr": "1e-4"}, steps=60)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("")
    with pytest.raises(Fault, match="exists and is no sweep"):
        swept(tmp_path / "b")
    swept(tmp_path / "c")
    (tmp_path / "c/seed-0").rename(tmp_path / "c/seed-1")
    with pytest.raises(Fault, match=r"seed-1 holds another run: its seed is 0, here 1"):
        swept(tmp_path / "c", seeds=2)


@pytest.mark.parametrize(
    ("over", "options", "words"),
    [
        ({"algo.lrr": "1"}, {}, "over: algo.lrr is not an option of sac; did you mean lr"),
        ({"lr": "1e-4,no"}, {}, "over: lr is 'no'; allowed: a number above 0"),
        ({"lr": [1e-4, -1]}, {}, "over: lr is -1; allowed: a number above 0"),
        ({"lr": "linear:1e-3,linear"}, {}, "over: lr is 'linear'; allowed: a number above 0 or a schedule, as linear:3e-4:1e-5"),
        ({"lr": "linear:1e-3,linear:0.001:0"}, {}, "over: lr has linear:0.001 twice"),
        ({"hidden": "8 8,8 0"}, {}, "over: hidden is '8 0'; allowed: any number of values"),
        ({"lr": "1e-4,0.0001"}, {}, "over: lr has 0.0001 twice"),
        ({"warmup": "0,0"}, {}, "over: warmup has 0 twice"),
        ({"lr": "1e-4", "algo.lr": "1e-3"}, {}, "over: lr is named twice"),
        ({"lr": []}, {}, "over: lr has no values"),
        ({"lr": "1e-4..1e-2"}, {}, r"over: lr is the range '1e-4..1e-2', which is for a search: give --search N"),
        ({"lr": "1e-2..1e-4"}, {"search": 2}, r"a range is LOW..HIGH"),
        ({"vector": "sync..async"}, {"search": 2}, r"a range is LOW..HIGH"),
        ({}, {"search": 2}, "search: nothing to search"),
        ({"seed": "1,2"}, {}, "over: seed cannot be swept"),
        ({"env": "a,b"}, {}, "over: env cannot be swept"),
        ({}, {"lrr": 1}, "lrr is not an option of sac"),
        ({}, {"seeds": 0}, "seeds is 0; allowed: a whole number 1 or more"),
        ({}, {"collectors": 1}, "collectors is 1; a sweep trains whole runs"),
        ({}, {"device": "cuda:99"}, "device is 'cuda:99'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_begins(inside, tmp_path, over, options, words):
    with pytest.raises(Fault, match=words):
        swept(tmp_path / "out", over, **options)
    assert not (tmp_path / "out").exists()
    assert inside.started == []


def test_an_environment_that_other_processes_cannot_make_is_refused(tmp_path):
    with pytest.raises(Fault, match="a sweep needs an id"):
        thespis.sweep("sac", lambda: None, out=tmp_path / "out")


@pytest.mark.parametrize(("package", "options"), [("ray", {"parallel": 2}), ("optuna", {"search": 2})])
def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Fault, match=rf'pip install "thespis\[{"sweep" if package == "optuna" else "ray"}\]"'):
        swept(tmp_path / "out", {"lr": "1e-4,1e-3"}, **options)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------- runs that end badly


def test_a_run_that_dies_again_and_again_is_left_and_the_others_go_on(inside, tmp_path, monkeypatch):
    real, said = pools.work, []
    dies = lambda job: pools.Died("signal 9") if "lr=0.0001" in job["folder"] else real(job)
    monkeypatch.setattr(pools, "work", dies)
    found = thespis.sweep("sac", ENV, over={"lr": "1e-4,3e-4"}, seeds=1, out=tmp_path, say=said.append, **SMALL)
    assert inside.started == ["lr=0.0001/seed-0"] * 4 + ["lr=0.0003/seed-0"]
    assert found["failed"] == [{"run": "lr=0.0001/seed-0", "why": "died 4 times (signal 9)"}]
    assert [r["seeds"] for r in found["settings"]] == [0, 1]
    assert sum(line.startswith("died") for line in said) == 3


def test_a_fault_is_told_once_and_not_tried_again(inside, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "work", lambda job: "step 7: the environment failed")
    found = swept(tmp_path, {"lr": "1e-4,3e-4"})
    assert len(inside.started) == 2
    assert [f["why"] for f in found["failed"]] == ["step 7: the environment failed"] * 2
    assert found["finished"]
    assert not (tmp_path / "summary.png").exists()


def test_what_was_killed_before_it_said_what_it_is_begins_anew(inside, tmp_path):
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0/.lock").touch()
    (tmp_path / "sweep.json").write_text("")
    with pytest.raises(Fault, match=r"sweep.json is damaged"):
        swept(tmp_path)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "seed-0").rename(tmp_path.parent / "lonely")
    swept(tmp_path / "new")
    assert pools.work({"folder": str(tmp_path.parent / "lonely"), "algo": "sac", "env": ENV, "options": SMALL}) is None
    assert_bitwise(tmp_path.parent / "lonely", tmp_path / "new/seed-0")


def test_a_run_that_another_process_is_leaving_is_waited_for(tmp_path, monkeypatch):
    job, held, over = {"folder": str(tmp_path), "algo": "sac", "env": ENV, "options": SMALL}, threading.Event(), threading.Event()

    def hold():
        with alone(tmp_path):
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    monkeypatch.setattr(pools, "WAIT", 0.5)
    assert "is in use" in (pools.work(job) or "")
    monkeypatch.setattr(pools, "WAIT", 60.0)
    threading.Timer(0.5, over.set).start()
    assert pools.work(job) is None
    thread.join()


def when(there, seconds=90):
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_process_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path, monkeypatch):
    seen, said = [], []

    class Seen(pools.OneByOne):
        def __init__(self):
            super().__init__()
            seen.append(self)

    def kill():
        when(lambda: len(checkpoint.checkpoints(tmp_path / "a/seed-0")) > 1)
        seen[0].process.kill()

    monkeypatch.setattr(module, "OneByOne", Seen)
    thread = threading.Thread(target=kill)
    thread.start()
    long = SMALL | {"steps": 1000, "eval_every": 500, "checkpoint_every": 50, "updates_per_step": 0.2}
    found = thespis.sweep("sac", ENV, seeds=1, out=tmp_path / "a", say=said.append, **long)
    thread.join()
    assert found["finished"]
    assert [line.split()[0] for line in said[1:]] == ["begun", "died", "resumed", "done"]
    thespis.train("sac", env=ENV, out=tmp_path / "b", panel=False, **long)
    assert_bitwise(tmp_path / "a/seed-0", tmp_path / "b")


@pytest.mark.slow
def test_a_process_whose_input_ends_writes_a_checkpoint_and_ends(tmp_path):
    pool, folder = pools.OneByOne(), tmp_path / "run"
    pool.start({"folder": str(folder), "algo": "sac", "env": ENV, "options": SMALL | {"steps": 10**6, "checkpoint_every": 10**6}})
    when(lambda: (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_bytes().splitlines()) > 2)
    pool.stop()
    _, fault = pool.wait(90)
    assert fault is None
    assert pool.busy == 0
    [last] = checkpoint.checkpoints(folder)
    assert 20 < int(last.name) < 10**6


# -------------------------------------------------------------------------------------------------------------- a search

pytest_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs thespis[sweep]")
SPACE = {"lr": "1e-5..1e-2", "batch_size": "4..8", "hidden": "8,4 4"}


def trials(out):
    return json.loads((out / "sweep.json").read_text())["trials"]


@pytest_optuna
def test_a_search_stays_within_its_ranges_and_is_a_function_of_its_past(inside, tmp_path):
    found = swept(tmp_path / "a", SPACE, search=4, seeds=2)
    assert len(inside.started) == 8
    assert found["over"]["lr"] == {"from": 1e-5, "to": 1e-2, "log": True}
    assert found["over"]["batch_size"] == {"from": 4, "to": 8, "log": False}
    for i, (trial, row) in enumerate(zip(trials(tmp_path / "a"), found["settings"], strict=True)):
        assert 1e-5 <= trial["lr"] <= 1e-2
        assert trial["batch_size"] in range(4, 9)
        assert trial["hidden"] in ([8], [4, 4])
        about = json.loads((tmp_path / f"a/trial-{i:03d}/seed-1/config.json").read_text())
        assert {k: about["algo_config"][k] for k in trial} == trial == row["values"]
        assert row["mean"] == pytest.approx(np.mean(list(row["scores"].values())))
    inside.started, inside.crash_after = [], 3
    with pytest.raises(KeyboardInterrupt):  # within the second trial
        swept(tmp_path / "b", SPACE, search=4, seeds=2)
    assert len(trials(tmp_path / "b")) == 2
    inside.crash_after = 10**6
    swept(tmp_path / "b", SPACE, search=4, seeds=2)
    assert len(inside.started) == 8
    assert trials(tmp_path / "b") == trials(tmp_path / "a")
    swept(tmp_path / "b", SPACE, search=5, seeds=2)
    assert trials(tmp_path / "b")[:4] == trials(tmp_path / "a")
    assert len(inside.started) == 10
    with pytest.raises(Fault, match="it has 5 trials already"):
        swept(tmp_path / "b", SPACE, search=4, seeds=2)
    with pytest.raises(Fault, match=r"its lr is .*, here"):
        swept(tmp_path / "b", SPACE | {"lr": "1e-5..1e-3"}, search=5, seeds=2)


@pytest_optuna
@pytest.mark.parametrize(("name", "value"), [("lr", 1.0), ("lr", "1e-4"), ("batch_size", 5.0), ("hidden", [16]), ("gone", 1)])
def test_a_trial_that_no_search_proposed_is_refused(inside, tmp_path, name, value):
    swept(tmp_path, SPACE, search=1)
    about = json.loads((tmp_path / "sweep.json").read_text())
    del about["sha256"]
    about["trials"][0][name] = value
    checkpoint.write_sealed(tmp_path / "sweep.json", about)
    with pytest.raises(Fault, match=rf"{name} is .* in a trial|its trials are none"):
        swept(tmp_path, SPACE, search=2)


@pytest_optuna
def test_proposals_draw_near_to_the_best():
    """On -(log10 lr + 3.3)^2, whose mean under the uniform distribution from 1e-5 to 1e-2 is -(3^2 / 12 + 0.2^2) = -0.79."""
    axes, past = [Axis("lr", (1e-5, 1e-2), True)], []
    for _ in range(40):
        values = propose(axes, past, 0)
        past.append((values, -((np.log10(values["lr"]) + 3.3) ** 2)))
    assert np.mean([score for _, score in past[25:]]) > -0.79 / 1.5


@pytest_optuna
def test_trials_side_by_side_are_not_alike():
    axes, past = [Axis("lr", (1e-5, 1e-2), True)], []
    for _ in range(5):
        past.append((propose(axes, past, 0), None))
    assert len({values["lr"] for values, _ in past}) == 5
    assert propose(axes, past[:4], 0) == past[4][0]


# ------------------------------------------------------------------------------------------------------ the command line


def test_the_command_prints_one_object_and_faults_in_one_line(inside, tmp_path, capsys):
    args = [
        "sweep", "sac", "--env", ENV, "--steps", "40", "--warmup", "20", "--hidden", "8", "--batch-size", "8", "--eval-episodes",
        "1", "--compile-after", "-1", "--over", "algo.lr=1e-4,3e-4", "--over", "hidden=8,4 4", "--seeds", "1", "--out",
    ]  # fmt: skip
    assert cli.main([*args, str(tmp_path / "a"), "--json", "--sinks"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["settings"]) == len(inside.started) == 4
    assert said.err.count("done  ") == 4
    assert {p.name for p in (tmp_path / "a").iterdir() if p.is_dir()} == {
        f"lr={lr},hidden={hidden}" for lr in ("0.0001", "0.0003") for hidden in ("8", "4x4")
    }
    assert cli.main([*args, str(tmp_path / "a"), "--sinks"]) == 0
    assert "0.0003  4x4" in capsys.readouterr().out
    assert len(inside.started) == 4
    for more, words in (["--over", "lr"], "--over is 'lr'; allowed: NAME=VALUE"), (["--seed", "x"], "--seed is 'x'; allowed"):
        assert cli.main([*args, str(tmp_path / "b"), *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------------------------------- with Ray


def tasks():
    """Our processes of Ray's that train."""
    parents, found = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if (place / "cmdline").read_bytes().startswith(b"ray::work"):
                found.append(int(place.name))

    def ours(pid):
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in found if ours(pid)]


@pytest.mark.slow
def test_tasks_of_ray_are_retried_and_end_with_the_same_bits(tmp_path):
    pytest.importorskip("ray")
    long, said = SMALL | {"steps": 1000, "eval_every": 500, "checkpoint_every": 50, "updates_per_step": 0.2}, []
    killed = []

    def kill():
        when(lambda: len(checkpoint.checkpoints(tmp_path / "a/lr=0.0001/seed-0")) > 1)
        for pid in tasks():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with cluster(2, None):
        with pytest.raises(Fault, match="parallel is 3; the Ray cluster has 2 CPUs"):
            swept(tmp_path / "b", parallel=3)
        thread = threading.Thread(target=kill)
        thread.start()
        found = thespis.sweep(
            "sac", ENV, over={"lr": "1e-4,3e-4"}, seeds=1, parallel=2, out=tmp_path / "a", say=said.append, **long
        )
        thread.join()
    assert found["finished"]
    assert found["failed"] == []
    assert sum(line.startswith("died") for line in said) == len(killed) > 0
    for lr in (1e-4, 3e-4):
        thespis.train("sac", env=ENV, out=tmp_path / f"{lr}", panel=False, lr=lr, **long)
        assert_bitwise(tmp_path / f"a/lr={lr:g}/seed-0", tmp_path / f"{lr}")


def test_hours_are_those_of_the_whole_sweep_and_the_same_command_goes_on(inside, tmp_path):
    found = swept(tmp_path, {"lr": [1e-4, 1e-3]}, max_hours=1e-9)
    assert not found["finished"]
    assert inside.started == []
    assert swept(tmp_path, {"lr": [1e-4, 1e-3]}, max_hours=1.0)["finished"]
    assert len(inside.started) == 2
    assert {json.loads(f.read_text())["run"]["max_hours"] for f in tmp_path.rglob("config.json")} == {None}
    with pytest.raises(Fault, match="max_hours cannot be swept: it is the time that the whole sweep may take"):
        swept(tmp_path / "b", {"max_hours": [1.0]})


def test_data_alone_is_swept_where_there_is_an_environment_to_evaluate_in(tmp_path):
    columns = {"observations": np.zeros((40, 3)), "actions": np.linspace(-2, 2, 40)[:, None], "rewards": np.zeros(40)}
    np.savez(tmp_path / "log.npz", **columns, terminals=np.arange(40) % 8 == 7)
    options = {"data": str(tmp_path / "log.npz"), "steps": 20, "hidden": (4,), "eval_episodes": 1, "sinks": ()}
    with pytest.raises(Fault, match="env: a sweep compares returns, and log is recorded data: name an environment"):
        thespis.sweep("td3_bc", over={"alpha": [1, 2]}, seeds=1, out=tmp_path / "no", **options)
    say = lambda line: None
    found = thespis.sweep("td3_bc", "Pendulum-v1", over={"alpha": [1, 2]}, seeds=1, out=tmp_path / "out", say=say, **options)
    assert (found["finished"], found["failed"]) == (True, [])
