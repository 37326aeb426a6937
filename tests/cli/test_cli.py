"""The command line: what it answers, and that a mistake costs one line and leaves nothing behind."""

import ast
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis import api, cli
from thespis.algos.continuous import sac
from thespis.engine import checkpoint

ENV = "thespis/Observation-v0"  # episodes of one step, whose return is -1 or 1 by the seed
TINY = [
    "--steps",
    "60",
    "--warmup",
    "30",
    "--hidden",
    "8",
    "--batch-size",
    "8",
    "--eval-every",
    "40",
    "--eval-episodes",
    "4",
    "--log-every",
    "25",
    "--checkpoint-every",
    "40",
]
TINY += ["--compile-after", "-1", "--sinks"]


class Boundless(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, 1], np.float32))


class Drawn(gym.Env):
    """Draws itself, without any library."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode, self.t = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == 5, False, {}

    def render(self):
        return np.full((32, 32, 3), 40 * self.t, np.uint8)


gym.register("tests/Boundless-v0", Boundless)
gym.register("tests/Drawn-v0", Drawn)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a run in it: `done`."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"steps": 60, "warmup": 30, "hidden": (8,), "batch_size": 8, "eval_every": 40, "eval_episodes": 4}
    thespis.train("sac", ENV, out=folder / "done", sinks=(), compile_after=-1, log_every=25, checkpoint_every=40, **options)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, runs):
    """The current directory: a fresh one that holds a run."""
    shutil.copytree(runs / "done", tmp_path / "done")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder):
    """Every file with what is in it; an empty `runs`, where the next run would go, does not count."""
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*") if p != folder / "runs"}


def answer(capsys, *argv, code=0):
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == code
    out, err = capsys.readouterr()
    if code in (0, 130):
        assert err == ""
    return out


def refused(capsys, *argv):
    """The one line that a mistake costs."""
    before = tree(Path.cwd())
    capsys.readouterr()
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("thespis: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert len(err) > len("thespis: \n")
    assert not re.search("---|[│─╭╰]", err)  # words, no box
    assert tree(Path.cwd()) == before
    return err.removeprefix("thespis: ").rstrip("\n")


# -------------------------------------------------------------------------------------------------------------- mistakes

TRAIN = ["train", "sac", "--env", ENV, *TINY]

MISTAKES = [
    # commands and algorithms
    (["trian"], ["command 'trian'", "did you mean train"]),
    (["dance"], ["command 'dance'", "train", "resume", "evaluate", "list"]),
    (["train", "sacc"], ["algorithm 'sacc'", "did you mean sac"]),
    (["train", "quicksort"], ["algorithm 'quicksort'", "thespis list", ".py"]),
    (["train", "--env", ENV], ["algorithm '--env'"]),
    (["list", "--jsn"], ["--jsn", "--json"]),
    (["list", "more"], ["more"]),
    # environments
    (["train", "sac", "--env", "HalfCheeta-v5"], ["env is 'HalfCheeta-v5'", "did you mean HalfCheetah-v5?"]),
    (["train", "sac", "--env", "Pendulum-v99"], ["'Pendulum-v99'", "Pendulum-v1"]),
    (["train", "sac", "--env", "Qxzv-v0"], ["'Qxzv-v0'", "module:Env-v0"]),
    (["train", "sac", "--env", "no_such_module:Env-v0"], ["no_such_module", "cannot be imported"]),
    (["train", "sac", "--env", "CartPole-v1"], ["sac", "continuous actions", "Discrete", "2"]),
    (["train", "sac_discrete", "--env", "Pendulum-v1"], ["sac_discrete", "discrete actions"]),
    (["train", "sac", "--env", "tests/Boundless-v0"], ["tests/Boundless-v0", "action_space.low[1] is -inf", "finite"]),
    # options: unknown, and what they allow
    ([*TRAIN, "--bacth-size", "3"], ["--bacth-size is not an option", "did you mean", "batch-size"]),
    ([*TRAIN, "--qqq"], ["--qqq is not an option", "allowed", "--steps", "--help"]),
    ([*TRAIN, "-x"], ["-x"]),
    ([*TRAIN, "more"], ["more"]),
    ([*TRAIN, "--steps", "many"], ["steps is 'many'", "a whole number 1 or more"]),
    ([*TRAIN, "--steps", "2.5"], ["steps is '2.5'", "a whole number 1 or more"]),
    ([*TRAIN, "--steps", "1.5e0"], ["steps is '1.5e0'", "a whole number 1 or more"]),
    ([*TRAIN, "--steps", "1e400"], ["steps is '1e400'", "a whole number 1 or more"]),
    ([*TRAIN, "--steps=many"], ["steps is 'many'", "a whole number 1 or more"]),
    ([*TRAIN, "--steps"], ["steps is ''", "a whole number 1 or more"]),
    ([*TRAIN, "--steps", "0"], ["steps is 0", "a whole number 1 or more"]),
    ([*TRAIN, "--steps", "-7"], ["steps is -7", "a whole number 1 or more"]),
    ([*TRAIN, "--seed", "-1"], ["seed is -1", "a whole number 0 or more"]),
    ([*TRAIN, "--num_envs", "two"], ["num-envs is 'two'", "a whole number 1 or more"]),
    ([*TRAIN, "--eval-episodes", "-1"], ["eval_episodes is -1"]),
    ([*TRAIN, "--keep", "0"], ["keep is 0"]),
    ([*TRAIN, "--vector", "both"], ["vector is 'both'", "'sync', 'async'"]),
    ([*TRAIN, "tensorboard", "paper"], ["sinks is 'tensorboard paper'", "'tensorboard', 'wandb', 'trackio'"]),
    ([*TRAIN, "--lr", "fast"], ["lr is 'fast'", "a number above 0"]),
    ([*TRAIN, "--lr", "fast_1"], ["lr is 'fast_1'"]),
    ([*TRAIN, "--algo.lr", "fast"], ["lr is 'fast'", "a number above 0"]),
    ([*TRAIN, "--lr", "0"], ["lr is 0.0", "a number above 0"]),
    ([*TRAIN, "--lr", "-1"], ["lr is -1.0", "a number above 0"]),
    ([*TRAIN, "--lr", "nan"], ["lr is nan", "a number above 0"]),
    ([*TRAIN, "--lr", "inf"], ["lr is inf", "a number above 0"]),
    ([*TRAIN, "--tau", "2"], ["tau is 2.0", "a number from 0 to 1"]),
    ([*TRAIN, "--gamma", "1.1"], ["gamma is 1.1", "from 0 to 1"]),
    ([*TRAIN, "--hidden", "8", "wide"], ["hidden is '8 wide'", "a whole number 1 or more"]),
    ([*TRAIN, "--hidden"], ["hidden is given no number", "each a whole number 1 or more"]),
    ([*TRAIN, "--hidden", "--lr", "1"], ["hidden is given no number"]),
    ([*TRAIN, "--hidden", "8", "0"], ["hidden is (8, 0)", "a whole number 1 or more"]),
    ([*TRAIN, "--alpha", "auto"], ["alpha is 'auto'", "a number above 0 or None"]),
    ([*TRAIN, "--alpha", "0"], ["alpha is 0.0", "a number above 0 or None"]),
    ([*TRAIN, "--log-std", "1"], ["log-std is '1'", "2 values"]),
    ([*TRAIN, "--warmup", "-1"], ["warmup is -1", "a whole number 0 or more or None"]),
    # devices
    ([*TRAIN, "--device", "abacus"], ["device is 'abacus'", "allowed here: cpu"]),
    ([*TRAIN, "--device", "gpu"], ["device is 'gpu'", "allowed here: cpu"]),
    ([*TRAIN, "--device", ""], ["device is ''"]),
    ([*TRAIN, "--device", "meta"], ["device is 'meta'"]),
    # directories
    ([*TRAIN, "--out", "done"], ["done exists", "thespis resume done", "--out"]),
    ([*TRAIN, "--out", "done/config.json"], ["out: done/config.json exists and is a file"]),
    ([*TRAIN, "--out", "done/config.json/run"], ["out is done/config.json/run; done/config.json is a file"]),
    (["resume"], ["DIR", "run directory"]),
    (["resume", "nowhere"], ["nowhere is not a run directory: it does not exist"]),
    (["resume", "done/policy"], ["done/policy is not a run directory"]),
    (["resume", "done", "--steps", "0"], ["steps is 0"]),
    (["resume", "done", "--steps", "more"], ["steps is 'more'", "a whole number 1 or more"]),
    (["resume", "done", "--env", "Pendulum-v1"], ["other observations than done", "Box(-1.0, 1.0, (1,), float32)"]),
    (["resume", "done", "--env", "CartPole-v1"], ["other observations"]),
    (["resume", "done", "--algo", "td3"], ["config.json", "is not an option"]),
    (["resume", "done", "--lr", "0"], ["lr is 0.0", "above 0"]),
    (["evaluate"], ["DIR", "run directory"]),
    (["evaluate", "nowhere"], ["nowhere"]),
    (["evaluate", "done/config.json"], ["done/config.json"]),
    (["evaluate", "done", "--episodes", "0"], ["episodes is 0", "a whole number 1 or more"]),
    (["evaluate", "done", "--episodes", "all"], ["episodes is 'all'"]),
    (["evaluate", "done", "--seed", "-1"], ["seed is -1"]),
    (["evaluate", "done", "--every", "0"], ["every is 0", "a whole number 1 or more"]),
    (["evaluate", "done", "--every", "1.5"], ["every is '1.5'", "a whole number 1 or more"]),
    (["evaluate", "done", "--every"], ["every is ''", "a whole number 1 or more"]),
    (["evaluate", "done", "--which", "worst"], ["which is 'worst'", "'last'", "'best'"]),
    (["evaluate", "done", "--env", "Pendulum-v1"], ["Pendulum-v1", "other observations"]),
    (["evaluate", "done", "--video"], ["render_mode is 'rgb_array'"]),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=[" ".join(a[-2:]) for a, _ in MISTAKES])
def test_a_mistake_costs_one_line(capsys, argv, words):
    line = refused(capsys, *argv)
    for word in words:
        assert word in line, line


def test_a_whole_number_may_be_written_with_an_exponent(monkeypatch):
    given = []
    monkeypatch.setattr(
        api, "start", lambda algo, cfg, run, *_, **__: given.append((run.steps, cfg.batch_size, cfg.hidden, cfg.lr))
    )
    monkeypatch.setattr(cli, "_ran", lambda _: 0)
    words = "train sac --env Pendulum-v1 --steps 1_000_000 --batch-size=1e2 --hidden 1.6e1 3_2 --lr 1e-3"
    assert cli.main(words.split()) == 0
    assert cli.main([w.replace("1_000_000", "1E+6") for w in words.split()]) == 0
    assert given == [(1_000_000, 100, (16, 32), 1e-3)] * 2


def test_a_logger_that_is_not_installed(capsys, monkeypatch):
    Path("empty").mkdir()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        line = refused(capsys, *TRAIN, name)
        assert f"sinks: {name}" in line
        assert f'pip install "thespis[{name}]"' in line
        refused(capsys, *TRAIN, name, "--out", "new")
        refused(capsys, *TRAIN, name, "--out", "empty")
    answer(capsys, *TRAIN, "--out", "new")  # the same directory, once it is installed


def test_a_logger_that_does_not_start(capsys, monkeypatch):
    class Wandb:
        @staticmethod
        def init(**_):
            raise RuntimeError("not logged in\nsee https://...")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    assert "sinks: wandb did not start (not logged in)" in refused(capsys, *TRAIN, "wandb")


def test_without_an_encoder_there_are_stills_and_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    answer(capsys, "train", "sac", "--env", "tests/Drawn-v0", *TINY, "--out", "drawn")
    out = answer(capsys, "evaluate", "drawn", "--video", "--episodes", "1")
    assert "drawn/videos/step-000000060-last.png" in out
    assert 'pip install "thespis[video]"' in out


def test_a_device_that_this_torch_has_not(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("it has")
    assert "device is 'cuda'" in refused(capsys, *TRAIN, "--device", "cuda")


def test_no_right_to_write(capsys):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    Path("shut").mkdir(mode=0o500)
    assert "shut" in refused(capsys, *TRAIN, "--out", "shut/run")


def test_a_line_is_one_line_whatever_was_given(capsys):
    refused(capsys, "train", "two\nlines")
    refused(capsys, "train", "two\nlines.py")
    refused(capsys, "train", "sac", "--env", "Two\nlines-v0")
    refused(capsys, *TRAIN, "--steps", "two\nlines")
    refused(capsys, *TRAIN, "--two\nlines")
    assert "two lines is not a run directory" in refused(capsys, "resume", "two\nlines")


# ------------------------------------------------------------------------------------------------------------ own files

OWN = "import dataclasses\n" + Path(sac.__file__).read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mine.txt", OWN, ["algorithm 'mine.txt'", ".py"]),
        ("mine", OWN, ["algorithm 'mine'", ".py"]),
        ("mine.py", "def make(:", ["mine.py", "invalid syntax", "line 1"]),
        ("mine.py", "import no_such_module", ["mine.py", "ModuleNotFoundError", "no_such_module", "line 1"]),
        ("mine.py", "\n\n1 / 0", ["mine.py", "ZeroDivisionError", "line 3"]),
        ("mine.py", "raise SystemExit(3)", ["mine.py", "SystemExit"]),
        ("mine.py", "", ["mine.py", "does not declare", "Config, State, make"]),
        ("mine.py", OWN.replace("def make(", "def build("), ["mine.py", "does not declare make"]),
        ("mine.py", OWN.replace("def make(", "make = 3\ndef build("), ["mine.py", "make"]),
        ("mine.py", OWN.replace("lr: Rate = 3e-4", "lr: Rate"), ["mine.py", "lr"]),
        ("mine.py", OWN.replace("lr: Rate = 3e-4", "lr: Rate = -3e-4"), ["lr is -0.0003", "a number above 0"]),
        ("mine.py", b"\xff\xfe\x00", ["mine.py"]),
    ],
)  # fmt: skip
def test_an_own_algorithm_that_is_broken(capsys, name, text, words):
    (Path(name).write_bytes if isinstance(text, bytes) else Path(name).write_text)(text)
    line = refused(capsys, "train", name, "--env", ENV, *TINY)
    for word in words:
        assert word in line, line
    assert name not in sys.modules


def test_an_own_algorithm_that_is_missing(capsys):
    assert "there is no such file" in refused(capsys, "train", "mine.py")
    Path("mine.py").mkdir()
    assert "there is no such file" in refused(capsys, "train", "mine.py")


def test_an_own_algorithm_is_named_again_by_whoever_uses_its_run(capsys):
    Path("mine.py").write_text(OWN.replace("lr: Rate = 3e-4", "pace: Rate = 3e-4").replace("cfg.lr", "cfg.pace"))
    out = answer(capsys, "train", "mine.py", "--env", ENV, *TINY, "--pace", "0.01", "--out", "own")
    assert re.search(r"^go on +thespis resume own --algo mine.py --steps 120$", out, re.M)
    about = json.loads(Path("own/config.json").read_text())
    assert about["algo"] == "mine.py"
    assert about["algo_config"]["pace"] == 0.01
    for command in ("evaluate", "resume"):
        line = refused(capsys, command, "own")
        assert "--algo mine.py" in line
        assert "pace is not an option" in refused(capsys, command, "own", "--algo", "td3")
        answer(capsys, command, "own", "--algo", "mine.py")
    Path("elsewhere").mkdir()
    Path("mine.py").rename("elsewhere/mine.py")
    answer(capsys, "resume", "own", "--algo", "elsewhere/mine.py", "--steps", "80")
    assert sum(c.name == "000000080" for c in checkpoint.checkpoints(Path("own"))) == 1


@pytest.mark.parametrize("name", ["json.py", "torch.py", "thespis.py", "sac.py"])
def test_an_own_algorithm_takes_no_other_modules_name(capsys, name):
    """A file called torch.py must not become torch."""
    before = sys.modules.get(name[:-3])
    Path(name).write_text(OWN)
    answer(capsys, "train", name, "--env", ENV, *TINY)
    assert sys.modules.get(name[:-3]) is before
    assert Path(f"runs/{name[:-3]}-thespis-Observation-v0-0/config.json").exists()


# ---------------------------------------------------------------------------------------------------------- what it does


def test_train_says_where_it_is_and_how_to_go_on(capsys):
    out = answer(capsys, *TRAIN, "--seed", "5", "--lr", "0.01", "--algo.tau=0.1", "--updates_per_step", "0.5")
    folder = "runs/sac-thespis-Observation-v0-5"
    assert re.search(r"^step 40/60 .* return ", out, re.M)
    assert re.search(r"^return +-?\d\.\d{3} \(last evaluation, after 60 steps\)$", out, re.M)
    assert re.search(rf"^run +{folder}$", out, re.M)
    assert re.search(rf"^curve +{folder}/curve.png$", out, re.M)
    assert re.search(rf"^report +{folder}/report/index.html$", out, re.M)
    assert re.search(rf"^go on +thespis resume {folder} --steps 120$", out, re.M)
    about = json.loads(Path(folder, "config.json").read_text())
    assert about["run"]["seed"] == 5
    assert {about["algo_config"][k] for k in ("lr", "tau", "updates_per_step")} == {0.01, 0.1, 0.5}
    assert Path(folder, "curve.png").read_bytes().startswith(b"\x89PNG")
    names = {p.name for p in Path(folder).iterdir()}
    assert names == {"config.json", "metrics.jsonl", "curve.png", "report", "policy", "checkpoints", "replay", ".lock"}


def test_out_may_be_an_empty_directory(capsys):
    Path("empty").mkdir()
    answer(capsys, *TRAIN, "--out", "empty")
    assert Path("empty/policy/last.safetensors").exists()


def test_resume_does_more_steps_and_remembers_how_many(capsys):
    assert answer(capsys, "resume", "done").count("step ") == 0  # there is nothing left to do
    out = answer(capsys, "resume", "done", "--steps", "100")
    assert re.search(r"^step 100/100 ", out, re.M)
    assert not re.search(r"^step [1-5]?\d/100 ", out, re.M)
    assert json.loads(Path("done/config.json").read_text())["run"]["steps"] == 100
    assert json.loads(Path("done/policy/last.json").read_text())["step"] == 100
    assert "--steps 200" in out


def test_made_longer_it_has_the_tensors_of_a_run_of_that_length(capsys, here):
    from safetensors.torch import load_file

    answer(capsys, *TRAIN, "--steps", "100", "--out", "long")
    answer(capsys, "resume", "done", "--steps", "100")
    long, done = (load_file(Path(run, "checkpoints/000000100/tensors.safetensors")) for run in ("long", "done"))
    assert long.keys() == done.keys()
    assert all(x.equal(done[k]) for k, x in long.items())


def test_a_mistake_in_resume_leaves_the_number_of_steps(capsys, monkeypatch):
    about = json.loads(Path("done/config.json").read_text())
    about["run"]["device"] = "abacus"
    Path("done/config.json").write_text(json.dumps(about))
    refused(capsys, "resume", "done", "--steps", "100")


def test_evaluate(capsys):
    out = answer(capsys, "evaluate", "done", "--json", "--episodes", "7")
    assert out.count("\n") == 1
    result = json.loads(out)
    assert len(result["returns"]) == 7
    assert set(result["returns"]) <= {-1.0, 1.0}
    assert result["mean_return"] == pytest.approx(np.mean(result["returns"]))
    assert result["std_return"] == pytest.approx(np.std(result["returns"]))
    assert result["mean_length"] == 1
    assert result["step"] == 60
    out = answer(capsys, "evaluate", "done", "--episodes", "7")
    line = f"{result['mean_return']:.3f} ± {result['std_return']:.3f} over 7 episodes, policy of step 60"
    assert (out, result["every"]) == (f"{line}\n", 1)
    every = answer(capsys, "evaluate", "done", "--json", "--episodes", "7", "--every", "4")
    assert json.loads(every) == result | {"every": 4}  # its episodes are of one step
    assert answer(capsys, "evaluate", "done", "--episodes", "7", "--every", "4") == f"{line}, an observation every 4 steps\n"


def test_evaluate_seed(capsys):
    def returns(*argv):
        return json.loads(answer(capsys, "evaluate", "done", "--json", "--episodes", "40", *argv))["returns"]

    assert returns("--seed", "3") == returns("--seed", "3")
    assert returns("--seed", "3") != returns("--seed", "4")
    assert returns() == returns()
    assert returns("--seed", "3")[:10] == returns("--seed", "3", "--episodes", "10")  # more episodes are more of the same
    with Path("done/metrics.jsonl").open() as rows:
        seen = next(row["eval/returns"] for line in rows if "eval/returns" in (row := json.loads(line)))
    assert returns()[: len(seen)] != seen or len(seen) < 4  # seeds that training did not use


def test_evaluate_which(capsys):
    best = json.loads(answer(capsys, "evaluate", "done", "--json", "--which", "best"))
    assert best["step"] == json.loads(Path("done/policy/best.json").read_text())["step"]


def test_video(capsys):
    pytest.importorskip("imageio_ffmpeg")
    answer(capsys, "train", "sac", "--env", "tests/Drawn-v0", *TINY, "--out", "drawn")
    out = answer(capsys, "evaluate", "drawn", "--video", "--json", "--episodes", "2")
    assert out.count("\n") == 1
    result = json.loads(out)
    video = Path(result["video"])
    assert video == Path("drawn/videos/step-000000060-last.mp4")
    assert video.read_bytes()[4:8] == b"ftyp"
    assert Path(result["stills"]) == video.with_suffix(".png")
    assert {p.name for p in video.parent.iterdir()} == {video.name, "step-000000060-last.png"}
    assert result["returns"] == [5.0, 5.0]
    assert str(video) in answer(capsys, "evaluate", "drawn", "--video", "--episodes", "1")  # again, over the old one


def test_list(capsys):
    rows = json.loads(answer(capsys, "list", "--json"))
    assert {row["name"] for row in rows} == set(thespis.algorithms())
    (row,) = [row for row in rows if row["name"] == "sac"]
    assert row["family"] == "continuous"
    assert row["paper"].startswith("Haarnoja et al. 2018")
    assert all(row["summary"] and row["paper"] for row in rows)
    papers = {row["name"]: row["paper"] for row in rows}
    assert papers["droq"] == "Hiraoka et al. 2022, arXiv:2110.02034"
    assert papers["sac_discrete_classic"] == papers["sac_discrete"]  # a preset without a paper of its own
    assert papers["arsq"].endswith('Soft Q-Network"')  # of two lines
    table = answer(capsys, "list")
    assert all(row["name"] in table for row in rows)


def test_list_names_those_that_fit_an_environment(capsys):
    fit = {
        env: {row["name"] for row in json.loads(answer(capsys, "list", "--for", env, "--json"))} for env in ("CartPole-v1", ENV)
    }
    assert {"ppo", "sac_discrete", "bc"} <= fit["CartPole-v1"]
    assert {"ppo", "sac", "tqc", "bc"} <= fit[ENV]
    assert "sac" not in fit["CartPole-v1"]
    assert "sac_discrete" not in fit[ENV]
    with pytest.raises(thespis.Fault, match=r"Discrete.*; 'thespis list --for CartPole-v1' names the algorithms that fit$"):
        thespis.train("sac", env="CartPole-v1")


def test_a_yes_or_no_has_two_short_names(capsys, monkeypatch):
    kept = []
    monkeypatch.setattr(api, "start", lambda algo, cfg, *args, **parts: kept.append(cfg.unit_norm) or sys.exit(0))
    for words in ["--no-unit-norm"], ["--unit-norm"], ["--algo.no-unit-norm"], []:
        with pytest.raises(SystemExit):
            cli.main(["train", "flashsac", "--env", "Pendulum-v1", *words])
    assert kept == [False, True, False, True]


def docstrings(cls):
    """{field: the words under it}"""
    (body,) = [node.body for node in ast.parse(textwrap.dedent(Path(sys.modules[cls.__module__].__file__).read_text())).body
               if isinstance(node, ast.ClassDef) and node.name == cls.__name__]  # fmt: skip
    pairs = zip(body, [*body[1:], None], strict=True)
    return {
        a.target.id: " ".join(b.value.value.split()) for a, b in pairs if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr)
    }


@pytest.mark.parametrize("name", sorted(api.algorithms()))
def test_help_shows_every_field_with_default_and_words(capsys, name):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", name, "--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    said = re.sub(r"[│╭╮╰╯─\s]+", " ", out)
    algo = api.algorithms()[name]
    assert " ".join(algo.paper.split()) in said
    runs = cli._runs(algo)
    for cls, defaults, prefix in (runs, runs(), "--"), (algo.module.Config, algo.config, "--algo."):
        words = docstrings(cls)
        for field in dataclasses.fields(cls):
            value = getattr(defaults, field.name)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert re.search(
                rf"{prefix}{field.name.replace('_', '-')}\b.*? {re.escape(words[field.name])} \(default: {re.escape(shown)}\)",
                said,
            ), field.name


def test_help_everywhere(capsys):
    for argv in ["--help"], ["-h"], [], ["train"], ["train", "--help"]:
        assert "ALGORITHM" in answer(capsys, *argv)
    for argv in ["resume", "--help"], ["evaluate", "-h"], ["list", "--help"]:
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 0
    assert answer(capsys, "--version") == thespis.__version__ + "\n"


# ------------------------------------------------------------------------------------------------------ a real process


def start(*argv, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "thespis", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )


def test_a_mistake_in_a_real_process():
    process = start("train", "sac", "--lr", "fast", PYTHONIOENCODING="utf-8")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err == "thespis: --algo.lr is 'fast'; allowed: a number above 0 or a schedule, as linear:3e-4:1e-5\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGINT, []), (signal.SIGTERM, ["--vector", "async", "--num-envs", "2"])],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_to_the_whole_group_stops_it_and_all_is_kept(capsys, number, options):
    """As a terminal sends it: environments in processes of their own hear it too."""
    argv = [a if a != "60" else "1000000" for a in TRAIN]
    process = start(*argv, "--out", "run", *options)
    lines = []
    while not (lines and lines[-1].startswith("step 5")):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    lines += out.splitlines(keepends=True)
    assert process.returncode == 130
    assert err == ""
    assert "run      run\n" in lines
    assert lines[-1] == "go on    thespis resume run\n"
    assert not any("\x1b" in line or "\r" in line for line in lines)  # no terminal: plain lines
    assert all(re.match(r"(step|return|run|curve|report|go on) ", line) for line in lines), lines
    last = checkpoint.checkpoints(Path("run"))[-1]
    assert json.loads(Path("run/policy/last.json").read_text())["step"] == int(last.name)
    with pytest.raises(ProcessLookupError):  # nobody is left behind
        os.killpg(process.pid, 0)
    answer(capsys, "resume", "run", "--steps", int(last.name) + 20)
    assert int(checkpoint.checkpoints(Path("run"))[-1].name) == int(last.name) + 20


def test_a_quiet_sweep_says_only_what_failed(monkeypatch, capsys):
    def sweep(*args, say, **options):
        say("(1 of 2) done")
        say("failed   lr=1: no")
        return {"finished": True, "failed": [1], "over": []}

    import_module("thespis.sweep")
    monkeypatch.setattr(sys.modules["thespis.sweep"], "sweep", sweep)
    assert cli.main(["sweep", "sac", "--quiet"]) == 2
    assert capsys.readouterr() == ("", "failed   lr=1: no\n")
