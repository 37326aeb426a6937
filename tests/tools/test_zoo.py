"""make zoo: what a row's runs become, on a run of 60 steps."""

import hashlib
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.engine import checkpoint

HOUSE = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("zoo", HOUSE / "tools/zoo.py")
assert spec
assert spec.loader
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)

TINY = {"hidden": (8,), "batch_size": 8, "warmup": 30, "eval_every": 20, "eval_episodes": 3}
ROW = """
what = "SAC"
env = "Pendulum-v1"
steps = 60
seeds = [4, 5]
source = "none"

[curves."small one"]
algo = "sac"
options = { hidden = [8], batch-size = 8, warmup = 30, eval-every = 20, eval-episodes = 3 }

[curves.peer]
script = "learn_sb3.py"

[curves.same]
algo = "sac"
raw = "sac/Thespis"
"""
NAME = "tiny-small-one-4"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Of two seeds the first, as bench/learning.py leaves it."""
    out = tmp_path_factory.mktemp("bench") / "runs"
    silent = {"log_every": 20, "compile_after": -1, "sinks": (), "panel": False}
    thespis.train("sac", "Pendulum-v1", out=out / "bench-tiny-small one-4", steps=60, seed=4, **TINY, **silent)
    return out


@pytest.fixture
def place(trained, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/tiny.toml").write_text(ROW)
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path


def make(place):
    return zoo.make(place / "rows", place / "runs", place / "zoo")


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def alter(folder, **more):
    about = json.loads((folder / "policy/last.json").read_text())
    del about["sha256"]
    checkpoint.write_sealed(folder / "policy/last.json", about | more)


def test_a_run_becomes_a_folder_that_loads_and_evaluates_as_the_run_does(place, monkeypatch):
    there, missing = make(place)
    assert [(one.name, one.seed) for one in there] == [(NAME, 4)]
    assert {(one.curve, one.seed): why for one, why in missing.items()} == {("small one", 5): "no run"}
    policy = {f"{NAME}/policy/{which}.{kind}" for which in ("last", "best") for kind in ("json", "safetensors")}
    assert files(place / "zoo").keys() == policy | {
        "README.md", "SHA256SUMS", f"{NAME}/README.md", f"{NAME}/config.json", f"{NAME}/curve.png",
    }  # fmt: skip
    assert {p.name for p in place.iterdir()} == {"rows", "runs", "zoo"}
    monkeypatch.chdir(place)
    card = (place / f"zoo/{NAME}/README.md").read_text()
    assert f"thespis evaluate zoo/{NAME} --episodes 10\n" in card
    assert "hf://" not in card + (place / "zoo/README.md").read_text()
    assert "thespis[hub]" not in card
    (address,) = re.findall(r'thespis.load\("(.*)"\)', card)
    run, obs = place / "runs/bench-tiny-small one-4", np.array([0.6, 0.8, -3], np.float32)
    for which in "last", "best":
        assert thespis.load(address, which).act(obs) == thespis.load(run, which).act(obs)
    assert thespis.evaluate(address, 2) == thespis.evaluate(run, 2)


def test_the_index_has_each_policy_with_its_return_and_sum_and_the_command_of_each_other(place):
    make(place)
    index = (place / "zoo/README.md").read_text()
    rows = [json.loads(x) for x in (place / "runs/bench-tiny-small one-4/metrics.jsonl").read_text().splitlines()]
    (returns,) = (row["eval/returns"] for row in rows if row["step"] == 60 and "eval/returns" in row)
    found = re.search(
        r"^\| Pendulum-v1 \| sac \| small one \| 4 \| (\S+) \[(\S+), (\S+)\] \| 3 \| \[(\S+)\]\((\S+)\) \| `(\w+)` \|$",
        index,
        re.M,
    )
    assert found
    mean, low, high = (float(x.replace(",", "")) for x in found.groups()[:3])
    assert mean == pytest.approx(np.mean(returns), abs=0.051)
    three = [np.mean([a, b, c]) for a in returns for b in returns for c in returns]  # every resample, each as likely
    wanted = np.quantile(three, [0.025, 0.975], method="inverted_cdf")
    assert (low, high) == pytest.approx(wanted, abs=0.051)
    assert found[4] == found[5] == f"{NAME}/policy/last.safetensors"
    assert hashlib.sha256((place / "zoo" / found[5]).read_bytes()).hexdigest() == found[6]
    sums = dict(reversed(line.split("  ")) for line in (place / "zoo/SHA256SUMS").read_text().splitlines())
    contents = files(place / "zoo")
    assert sums == {name: hashlib.sha256(x).hexdigest() for name, x in contents.items() if name != "SHA256SUMS"}


def test_it_tells_nothing_of_the_machine_and_twice_is_the_same_to_the_byte(place):
    run = place / "runs/bench-tiny-small one-4"
    about = json.loads((run / "policy/last.json").read_text())
    alter(run, origin={"host": "secret", "command": "/home/secret"}, run=about["run"] | {"data": "/home/secret/set"})
    make(place)
    first = files(place / "zoo")
    for word in (b"secret", str(place).encode(), f"{Path.home()}/".encode(), b'"origin"'):
        assert not [name for name, x in first.items() if word in x], word
    make(place)
    assert files(place / "zoo") == first
    assert {p.name for p in place.iterdir()} == {"rows", "runs", "zoo"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("steps = 61", "stopped at step 60 of 61"),
        ("batch-size = 9", "batch_size is 8, in the row 9; move bench-tiny-small one-4 away first"),
        ('env = "HalfCheetah-v5"', "env is Pendulum-v1, in the row HalfCheetah-v5; move bench-tiny-small one-4 away first"),
        ('algo = "td3"', "algo is sac, in the row td3; move bench-tiny-small one-4 away first"),
    ],
)
def test_a_run_that_is_not_what_the_row_says_stays_out(place, change, why):
    name = change.partition(" = ")[0]
    (place / "rows/tiny.toml").write_text(re.sub(rf'\b{name} = ("[\w-]+"|\d+)', change, ROW, count=1))
    (one,) = (one for one in zoo.wanted(place / "rows") if one.seed == 4)
    assert zoo.lacks(one, place / "runs" / one.run) == why
    with pytest.raises(Fault, match="no run of the bench is done"):
        make(place)
    assert not (place / "zoo").exists()


def test_what_would_be_lost_or_is_damaged_stops_it_and_leaves_all_as_it_was(place):
    make(place)
    (place / "zoo/notes.txt").write_text("mine")
    before = files(place / "zoo")
    with pytest.raises(Fault, match=r"notes\.txt would be lost"):
        make(place)
    (place / "zoo/notes.txt").unlink()
    (place / "runs/bench-tiny-small one-4/policy/best.safetensors").write_bytes(b"junk")
    with pytest.raises(Fault, match="damaged"):
        make(place)
    assert files(place / "zoo") == {k: v for k, v in before.items() if k != "notes.txt"}
    assert {p.name for p in place.iterdir()} == {"rows", "runs", "zoo"}


def test_every_run_of_the_bench_has_a_folder_of_its_own():
    everything = list(zoo.wanted())
    assert len({one.name for one in everything}) == len(everything)
    assert all(re.fullmatch(r"[\w.-]+", one.name) and zoo._settings(one) for one in everything)


def test_the_command_of_what_is_missing_makes_it(place, monkeypatch, capsys):
    make(place)
    (line,) = re.findall(r"^\| tiny/small one \| 5 \| no run \| `thespis (.*)` \|$", (place / "zoo/README.md").read_text(), re.M)
    monkeypatch.chdir(place)
    assert cli.main([*shlex.split(line), "--sinks"]) == 0
    there, missing = make(place)
    assert ([one.name for one in there], missing) == ([NAME, NAME.replace("4", "5")], {})
    assert "Not here" not in (place / "zoo/README.md").read_text()


def test_a_command_says_what_the_row_says():
    ones = [zoo.Wanted("r", "a b", s, "X-v0", 9, "sac", {"eval_every": 3, "hidden": [8, 9], "norm": False}) for s in (0, 1)]
    line = "thespis train sac --env X-v0 --steps 9 --eval-every 3 --hidden 8 9 --no-norm"
    assert zoo.command(ones[:1]) == f'{line} --seed 0 --out "runs/bench-r-a b-0"'
    assert zoo.command(ones[:1], "stopped at step 8 of 9") == 'thespis resume "runs/bench-r-a b-0" --steps 9'
    assert zoo.command(ones) == f'for seed in 0 1; do {line} --seed $seed --out "runs/bench-r-a b-$seed"; done'


@pytest.mark.parametrize("out", [".", "file"])
def test_a_place_that_is_no_folder_is_one_line(place, out):
    (place / "file").write_text("mine")
    with pytest.raises(Fault, match="allowed: a folder"):
        zoo.make(place / "rows", place / "runs", Path(".") if out == "." else place / out)
    assert (place / "file").read_text() == "mine"
