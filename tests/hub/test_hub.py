"""The Hub in both directions, against a folder that stands in for it: what is pushed, what is fetched, what is refused."""

import fnmatch
import inspect
import json
import os
import shutil
import sys

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi

import thespis
from thespis import cli, hub
from thespis.core import Fault
from thespis.engine import checkpoint, fetch

TINY = {
    "steps": 60, "warmup": 30, "hidden": (8,), "batch_size": 8, "eval_every": 20, "eval_episodes": 3, "log_every": 20,
    "compile_after": -1, "sinks": (), "panel": False, "seed": 4,
}  # fmt: skip


class Folder:
    """The calls of HfApi that we make, each as its signature allows, on a folder: owner/name/revision/files."""

    def __init__(self, root, cache):
        self.root, self.cache, self.private = root, cache, {}

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        real = getattr(HfApi, name, None)

        def checked(*args, **kwargs):
            inspect.signature(real).bind(self, *args, **kwargs)
            return found(*args, **kwargs)

        return checked if real else found

    def create_repo(self, repo_id, private=None, exist_ok=False):
        (self.root / repo_id / "main").mkdir(parents=True, exist_ok=exist_ok)
        self.private.setdefault(repo_id, private)

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
        there = self.root / repo_id / "main"
        for file in [p for p in there.rglob("*") if p.is_file()]:
            if any(fnmatch.fnmatch(file.relative_to(there).as_posix(), pattern) for pattern in delete_patterns):
                file.unlink()
        shutil.copytree(folder_path, there, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None):
        there, here = self.root / repo_id / (revision or "main"), self.cache / repo_id / (revision or "main")
        if not there.is_dir():
            raise RuntimeError(f"404 Client Error.\n\nRepository or revision not found: {repo_id}")
        here.mkdir(parents=True, exist_ok=True)
        for file in [p for p in there.rglob("*") if p.is_file()]:
            name = file.relative_to(there).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns or ["*"]):
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, here / name)
        return str(here)


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Folder(tmp_path / "server", tmp_path / "cache")
    monkeypatch.setattr(fetch, "client", lambda: server)
    monkeypatch.setattr(fetch, "token", lambda: True)
    return server


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return thespis.train("sac", "Pendulum-v1", out=tmp_path_factory.mktemp("runs") / "done", **TINY).path


def one_line(function, *args, **kwargs):
    with pytest.raises(Fault) as fault:
        function(*args, **kwargs)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


POLICY = {"config.json", "policy/last.json", "policy/last.safetensors", "policy/best.json", "policy/best.safetensors"}


def test_there_and_back_is_the_same_policy(server, done, tmp_path, capsys):
    assert thespis.push(done, "me/pendulum") == "hf://me/pendulum"
    assert server.private == {"me/pendulum": False}
    assert files(server.root / "me/pendulum/main") == POLICY | {"README.md", "curve.png"}
    obs = np.array([0.6, 0.8, -3], np.float32)
    for which in "last", "best":
        there = thespis.load("hf://me/pendulum", which)
        assert (there.act(obs), there.about) == (thespis.load(done, which).act(obs), thespis.load(done, which).about)
    assert files(server.cache) == {f"me/pendulum/main/{name}" for name in POLICY}, "no more than is needed"
    wanted = thespis.evaluate(done, 2)
    assert thespis.evaluate("hf://me/pendulum", 2) == wanted
    assert "thespis load" in one_line(thespis.evaluate, "hf://me/pendulum", 1, video=True)
    assert cli.main(["load", "hf://me/pendulum", "--out", str(tmp_path / "brought")]) == 0
    assert f"thespis evaluate {tmp_path / 'brought'}" in capsys.readouterr().out
    assert files(tmp_path / "brought") == POLICY
    assert thespis.evaluate(tmp_path / "brought", 2) == wanted
    assert "brought exists" in one_line(hub.bring, "hf://me/pendulum", tmp_path / "brought")


def test_a_revision_is_another_policy(server, done):
    thespis.push(done, "me/two")
    old = server.root / "me/two/v1"
    (server.root / "me/two/main").rename(old)
    assert thespis.load("hf://me/two@v1").about["step"] == 60
    assert "cannot be fetched" in one_line(thespis.load, "hf://me/two")


def test_the_card_says_what_was_measured(server, done):
    """Its numbers are those of metrics.jsonl, worked out here from the returns themselves."""
    assert cli.main(["push", str(done), "me/card", "--private"]) == 0
    assert server.private == {"me/card": True}
    card = (server.root / "me/card/main/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    data = yaml.safe_load(front)
    rows = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    returns = {row["step"]: np.array(row["eval/returns"]) for row in rows if "eval/returns" in row}
    best = max(returns, key=lambda step: returns[step].mean())
    for name, step in ("last", 60), ("best", best):
        x = returns[step]
        assert f"| {name} | {step} | {x.mean():.1f} ± {x.std():.1f} | {step} | 3 |" in text
    assert data["library_name"] == "thespis"
    assert {"reinforcement-learning", "sac", "Pendulum-v1"} <= set(data["tags"])
    [result] = data["model-index"][0]["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"]["type"] == "Pendulum-v1"
    x = returns[60]
    assert result["metrics"][0]["value"] == f"{x.mean():.2f} +/- {x.std():.2f}"
    assert "thespis evaluate hf://me/card --episodes 10\n" in text
    assert "arXiv:1812.05905" in text
    assert "(curve.png)" in text


def test_what_a_push_leaves_behind(server, done, tmp_path):
    """The newest video comes along; what is no more goes, but for the owner's own files; this machine's places stay here."""
    run = shutil.copytree(done, tmp_path / "run")
    (run / "videos").mkdir()
    for i, name in enumerate(("b", "a")):
        (run / f"videos/{name}.mp4").write_text(name)
        os.utime(run / f"videos/{name}.mp4", (i, i))
    for file in run / "config.json", run / "policy/last.json":
        about = json.loads(file.read_text())
        about["run"]["data"] = "/home/me/secret/set"
        about |= {"origin": {"host": "secret", "command": "secret"}, "start": {"run": "/home/me/secret/old", "step": 3}}
        (checkpoint.write_sealed if about.pop("sha256", None) else checkpoint.write_json)(file, about)
    thespis.push(run, "me/more")
    there = server.root / "me/more/main"
    assert (there / "replay.mp4").read_text() == "a"
    assert not [p for p in there.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]
    pushed = json.loads((there / "config.json").read_text())
    own = {"algo": "/home/me/secret/mine.py", "title": "/home/me/secret/mine.py on X-v0, seed 1", "run": {}}
    assert hub._nameless(own) == {"algo": "mine.py", "title": "mine.py on X-v0, seed 1", "run": {}}
    assert (pushed["run"]["data"], pushed["start"]) == ("set", {"run": "old", "step": 3})
    (there / "notes.txt").write_text("mine")
    shutil.rmtree(run / "videos")
    for kind in "json", "safetensors":
        (run / f"policy/best.{kind}").unlink()
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write('{"step": 99, "eval/ret')  # it was killed here
    thespis.push(run, "me/more")
    assert "| last | 60 |" in (there / "README.md").read_text()
    (run / "metrics.jsonl").unlink()
    thespis.push(run, "me/more")
    assert files(there) == POLICY - {"policy/best.json", "policy/best.safetensors"} | {"README.md", "curve.png", "notes.txt"}
    assert "model-index" not in (there / "README.md").read_text()


def test_what_comes_from_there_is_not_trusted(server, done):
    thespis.push(done, "you/odd")
    there = server.root / "you/odd/main"
    about = json.loads((there / "policy/last.json").read_text())
    del about["sha256"]
    for change, words in (
        ({"algo": "/tmp/evil.py"}, "never runs code"),
        ({"algo": "os"}, "algorithm 'os'"),
        ({"observation_space": {"kind": "box"}}, "space"),
        ({"algo_config": {"lr": "x"}}, "lr is 'x'"),
        ({"algo_config": about["algo_config"] | {"hidden": [9]}}, "does not fit"),
    ):
        checkpoint.write_sealed(there / "policy/last.json", about | change)
        assert words in one_line(thespis.load, "hf://you/odd")
    (there / "policy/last.safetensors").write_bytes(b"\x80\x04junk")
    checkpoint.write_sealed(there / "policy/last.json", about)
    assert "damaged" in one_line(thespis.load, "hf://you/odd")
    (there / "policy/extra.pkl").write_bytes(b"\x80\x04.")
    shutil.rmtree(there / "policy")
    shutil.rmtree(server.cache)
    assert "no policy" in one_line(thespis.load, "hf://you/odd")


@pytest.mark.parametrize(
    "name", ["hf://", "hf://me", "hf://me/a/b", "hf://../x", "hf://me/a b", "hf://me/x@", "hf://me/x?y", "hf://-a/b"]
)
def test_names_that_are_none(server, name, tmp_path):
    assert "hf://owner/name" in one_line(thespis.load, name)
    assert "owner/name" in one_line(thespis.push, tmp_path, name.removeprefix("hf://").partition("@")[0] + "?")


def test_without_a_token_or_a_network_one_line(done, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "HF_TOKEN" in one_line(thespis.push, done, "me/x")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    nowhere = HfApi(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(fetch, "client", lambda: nowhere)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "me/x cannot be pushed to: ConnectError" in one_line(thespis.push, done, "me/x")
    assert "hf://me/x-none cannot be fetched" in one_line(thespis.load, "hf://me/x-none")
    assert "none does not exist" in one_line(thespis.push, tmp_path / "none", "me/x")


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "thespis[hub]"' in one_line(thespis.load, "hf://me/x")
