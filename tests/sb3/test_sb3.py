"""Policies of Stable-Baselines3: its own actions, from a file that it saved once and from itself where it is installed; and files
that would do harm, or do not fit."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import zipfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch

import thespis
from thespis import cli, sb3
from thespis.core import Fault

HERE = Path(__file__).parent
FILE = HERE / "pendulum.zip"


class Evil:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def one_line(function, *args, **kwargs):
    with pytest.raises(Fault) as fault:
        function(*args, **kwargs)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def altered(path, data=None, policy=None):
    """The fixture with other `data` (of its JSON) or another policy.pth (of its bytes)."""
    with zipfile.ZipFile(FILE) as old, zipfile.ZipFile(path, "w") as new:
        about = json.loads(old.read("data"))
        new.writestr("data", json.dumps(data(about) if data else about))
        new.writestr("policy.pth", policy(old.read("policy.pth")) if policy else old.read("policy.pth"))
    return path


def saved(value, **options):
    torch.save(value, buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def repacked(data, old, new):
    """policy.pth with other bytes in its pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(buffer := io.BytesIO(), "w") as out:
        for name in parts.namelist():
            part = parts.read(name)
            assert not name.endswith("data.pkl") or old in part
            out.writestr(name, part.replace(old, new) if name.endswith("data.pkl") else part)
    return buffer.getvalue()


def state():
    with zipfile.ZipFile(FILE) as parts:
        return torch.load(io.BytesIO(parts.read("policy.pth")), weights_only=True)


def test_a_file_that_sb3_saved_acts_as_sb3_did(tmp_path, capsys):
    folder = tmp_path / "in"
    assert cli.main(["import", "sb3", str(FILE), "--env", "Pendulum-v1", "--out", str(folder)]) == 0
    assert f"thespis evaluate {folder}" in capsys.readouterr().out
    policy = thespis.load(folder)
    known = json.loads((HERE / "pendulum.json").read_text())
    got = np.stack([policy.act(np.array(x, np.float32)) for x in known["obs"]])
    assert np.abs(got - known["action"]).max() <= 1e-5
    assert np.ptp(known["action"]) > 1
    assert policy.about["step"] == 700
    cfg = policy.about["algo_config"]
    assert {k: cfg[k] for k in ("hidden", "log_std", "lr", "tau", "gamma", "batch_size", "replay_size", "n_step")} == {
        "hidden": [8, 8], "log_std": [-20, 2], "lr": 3e-4, "tau": 0.005, "gamma": 0.99, "batch_size": 256,
        "replay_size": 1_000_000, "n_step": 1,
    }  # fmt: skip
    assert thespis.evaluate(folder, 2)["step"] == 700
    assert "no checkpoint" in one_line(thespis.resume, folder)
    assert "exists" in one_line(thespis.import_sb3, FILE, "Pendulum-v1", folder)


@pytest.fixture
def theirs():
    """make_fixture.py, which wants their library."""
    pytest.importorskip("stable_baselines3")
    spec = importlib.util.spec_from_file_location("make_fixture", HERE / "make_fixture.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("net_arch", [[8, 8], [4], [], [5, 6, 7]])
def test_what_sb3_saves_today(tmp_path, theirs, net_arch):
    made = theirs.model(seed=5, net_arch=net_arch)
    made.save(tmp_path / "model.zip")
    policy = thespis.load(thespis.import_sb3(tmp_path / "model.zip", "Pendulum-v1", tmp_path / "in"))
    assert policy.about["algo_config"]["hidden"] == net_arch
    obs = theirs.observations(1000)
    wanted = made.predict(obs, deterministic=True)[0]
    assert np.abs(np.stack([policy.act(x) for x in obs]) - wanted).max() <= 1e-5


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"activation_fn": torch.nn.Tanh}, "Tanh"),
        ({"activation_fn": torch.nn.LeakyReLU}, "LeakyReLU"),
        ({"use_sde": True}, "gSDE"),
    ],
)
def test_what_sb3_saves_and_sac_cannot_be(tmp_path, theirs, kwargs, words):
    theirs.model(**kwargs).save(tmp_path / "model.zip")
    assert words in one_line(thespis.import_sb3, tmp_path / "model.zip", "Pendulum-v1", tmp_path / "in")


def test_every_part_of_the_policys_spread_is_theirs():
    """The log standard deviation, which acting without exploring does not show: against the layers by hand, in float64."""
    theirs = {k: x.double() for k, x in state().items() if k.startswith("actor.")}
    h = torch.randn(9, 3, dtype=torch.float64)
    wanted = h
    for i in 0, 2:
        wanted = (wanted @ theirs[f"actor.latent_pi.{i}.weight"].T + theirs[f"actor.latent_pi.{i}.bias"]).relu()
    wanted = wanted @ theirs["actor.log_std.weight"].T + theirs["actor.log_std.bias"]
    _, p = sb3._actor(sb3._open(FILE)[1], FILE)
    x = (h.float() @ p["w0"] + p["b0"]).relu()
    x = (x @ p["w1"] + p["b1"]).relu() @ p["w2"] + p["b2"]
    torch.testing.assert_close(x[:, 1:].double(), wanted, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------ nothing is executed


def test_pickles_are_not_run(tmp_path):
    mark = tmp_path / "mark"

    def infected(about):
        harm = b64encode(pickle.dumps(Evil(mark))).decode()
        return about | {k: {":type:": "x", ":serialized:": harm} for k in ("observation_space", "action_space", "lr_schedule")}

    file = altered(tmp_path / "spaces.zip", data=infected)
    thespis.import_sb3(file, "Pendulum-v1", tmp_path / "in")
    for i, value in enumerate((Evil(mark), state() | {"actor.mu.bias": Evil(mark)}, {"x": [Evil(mark)]})):
        data = saved(value)
        assert "policy.pth" in one_line(
            thespis.import_sb3, altered(tmp_path / f"{i}.zip", policy=lambda _, data=data: data), "Pendulum-v1", tmp_path / "no"
        )
    assert not mark.exists()
    assert not (tmp_path / "no").exists()
    with pytest.raises(FileExistsError):  # that it would have done harm
        (mark.mkdir(), pickle.loads(pickle.dumps(Evil(mark))))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (lambda _: b"no zip", "policy.pth"),
        (lambda data: data[: len(data) // 2], "policy.pth"),
        (lambda _: saved(state(), _use_new_zipfile_serialization=False), "policy.pth"),
        (lambda _: saved({k: x.double() for k, x in state().items()}), "DoubleStorage"),
        (lambda _: saved({k: x[..., ::2] for k, x in state().items()}), "strides"),
        (lambda _: saved([1, 2]), "policy.pth"),
        (lambda _: saved({"actor": 1}), "an entry is no tensor"),
        (lambda _: saved({k: x for k, x in state().items() if k != "actor.mu.bias"}), "mu.bias"),
        (lambda _: saved(state() | {"actor.features_extractor.cnn.0.weight": torch.zeros(2)}), "features_extractor"),
        (lambda _: saved(state() | {"actor.mu.bias": torch.zeros(2)}), "do not fit together"),
        (lambda _: saved(state() | {"actor.latent_pi.0.bias": torch.zeros(7)}), "w0"),
        (lambda data: repacked(data, b"K\x08K\x03\x86", b"K\x63K\x03\x86"), "larger than what is stored"),
        (lambda data: repacked(data, b"ccollections\nOrderedDict", b"cposix\nsystem"), "posix system"),
        (lambda data: repacked(data, b"X\x03\x00\x00\x00cpu", b"\x8c\x03cpu"), "SHORT_BINUNICODE"),
    ],
)  # fmt: skip
def test_a_policy_that_is_damaged_or_does_not_fit(tmp_path, policy, words):
    file = altered(tmp_path / "x.zip", policy=policy)
    assert words in one_line(thespis.import_sb3, file, "Pendulum-v1", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.Tanh'>"}}, "Tanh"),
        ({"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.LeakyReLU'>"}}, "LeakyReLU"),
        ({"policy_class": {"__module__": "stable_baselines3.td3.policies"}}, "td3"),
        ({"policy_class": None}, "policy of None"),
        ({"gamma": 3}, "gamma is 3"),
    ],
)
def test_data_that_does_not_fit(tmp_path, change, words):
    file = altered(tmp_path / "x.zip", data=lambda about: about | change)
    assert words in one_line(thespis.import_sb3, file, "Pendulum-v1", tmp_path / "out")


def test_other_files_and_environments(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILE, "x.zip")
    for file, env, words in (
        ("none.zip", "Pendulum-v1", "missing"), (HERE / "test_sb3.py", "Pendulum-v1", "no file that Stable-Baselines3 saved"),
        ("x.zip", "MountainCarContinuous-v0", "w0 is (3, 8)"), ("x.zip", "CartPole-v1", "continuous actions"),
        ("x.zip", "FrozenLake-v1", "only vectors"), ("x.zip", "Pendlum-v1", "did you mean Pendulum-v1"),
    ):  # fmt: skip
        assert words in one_line(thespis.import_sb3, file, env)
    with zipfile.ZipFile("y.zip", "w") as other:
        other.writestr("readme", "")
    assert "no file that Stable-Baselines3 saved" in one_line(thespis.import_sb3, "y.zip", "Pendulum-v1")
    for args, words in (
        ([], "thespis import sb3 FILE --env ENV"), (["cleanrl"], "cleanrl"), (["sb3", "x.zip"], "--env"), (["sb3"], "FILE"),
    ):  # fmt: skip
        assert cli.main(["import", *args]) == 2
        assert words in capsys.readouterr().err
    assert not Path("runs").exists()
