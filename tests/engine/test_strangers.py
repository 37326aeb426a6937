"""A run directory that a stranger made: it writes nowhere else, hangs nowhere, and takes no memory that it only asks for."""

import json
import os
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import thespis
from thespis.core import Fault
from thespis.engine import checkpoint

SMALL = {
    "hidden": (8,), "batch_size": 8, "warmup": 20, "steps": 60, "eval_episodes": 1, "compile_after": -1, "sinks": (),
    "panel": False, "replay_size": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    thespis.train("sac", env="thespis/Counter-v0", out=folder, keep=1, **SMALL)
    return folder


@pytest.fixture
def run(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture(autouse=True)
def never_long():
    """What hangs ends after a minute."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def refused(use, *args, **options):
    with pytest.raises(Fault) as fault:
        use(*args, **options)
    assert "\n" not in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize(
    "place",
    [
        "config.json", "metrics.jsonl", ".lock", ".curve.png.tmp", "policy", "policy/last.json", "policy/.last.json.tmp",
        "checkpoints", "checkpoints/000000060", "checkpoints/.000000090.tmp", "replay", "replay/000000000.safetensors",
        "tensorboard",
    ],
)  # fmt: skip
def test_a_link_is_no_way_out_of_the_directory(tmp_path, run, place):
    outside, link = tmp_path / "outside", run / place
    if link.is_dir():
        link.rename(outside)
    elif link.exists():
        outside.write_bytes(link.read_bytes())
        link.unlink()
    else:
        outside.write_text("mine")
    link.symlink_to(outside)
    before = {p: p.read_bytes() for p in (outside, *outside.rglob("*")) if p.is_file()}
    assert f"{place} is a link" in refused(thespis.resume, run, steps=90, panel=False)
    assert {p: p.read_bytes() for p in (outside, *outside.rglob("*")) if p.is_file()} == before


@pytest.mark.parametrize(
    "instead", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "folder", "device"]
)
@pytest.mark.parametrize("name", ["config.json", "policy/last.json", "policy/last.safetensors"])
def test_a_policy_is_read_from_files_alone(run, name, instead):
    (run / name).unlink()
    instead(run / name)
    for use in (thespis.evaluate, thespis.load) if "policy" in name else (thespis.evaluate,):
        assert name.partition("/")[0] in refused(use, run)


@pytest.mark.parametrize("instead", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl", "checkpoints/000000060/checkpoint.json", "checkpoints/000000060/tensors.safetensors",
        "replay/000000000.safetensors",
    ],
)  # fmt: skip
def test_a_run_goes_on_from_files_alone(run, name, instead):
    (run / name).unlink()
    instead(run / name)
    assert f"{name} is not a file" in refused(thespis.resume, run, steps=90, panel=False)


def resealed(file, **changes):
    about = json.loads(file.read_text())
    about.pop("sha256")
    for part in (about, about.get("algo_config", {})):
        part |= {k: v for k, v in changes.items() if k in part}
    checkpoint.write_sealed(file, about)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": [10**6, 10**6]}, {"hidden": [10**15, 10**15]}, {"critics": 10**9}, {"hidden": [1] * 3000},
        {"observation_space": {"kind": "box", "shape": [2**24], "dtype": "float32", "low": 0, "high": 1}},
    ],
    ids=["terabytes", "beyond count", "a billion networks", "layers", "observations"],
)  # fmt: skip
def test_sizes_that_are_only_declared_take_no_memory(run, changes):
    resealed(run / "policy/last.json", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(thespis.load, run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # KB: 2^24 bounds of a space, some times over


@pytest.mark.parametrize(
    ("words", "told"),
    [('"seed": NaN', "NaN is not a number"), ('"seed": 1, "seed": 2', "a name stands twice"), ('"seed": "\\ud800"', "seed is")],
)
def test_json_is_strict(run, words, told):
    file = run / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', words))
    assert told in refused(thespis.resume, run, panel=False)


def test_a_policy_with_a_bit_flipped_is_not_believed(run):
    for name in ("policy/last.safetensors", "policy/last.json"):
        file = run / name
        data = file.read_bytes()
        for at in range(0, len(data), 37):
            file.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            assert "policy/last." in refused(thespis.load, run)  # of either, where the name of the checksum is what has changed
        file.write_bytes(data)
    save_file(load_file(file := run / "policy/last.safetensors"), file)  # the same, without its checksum
    assert "checksum" in refused(thespis.load, run)


def test_a_policy_from_before_there_were_checksums_is_read(run):
    wanted = thespis.load(run).act([0.5] * 4)
    file = run / "policy/last.json"
    about = json.loads(file.read_text())
    del about["sha256"]
    file.write_text(json.dumps(about))
    save_file(load_file(file := run / "policy/last.safetensors"), file)
    assert thespis.load(run).act([0.5] * 4) == wanted


@pytest.mark.parametrize("action", [-1, 2, 10**9])
def test_experience_with_actions_that_there_are_not(tmp_path, action):
    run = thespis.train("sac_discrete", env="thespis/CounterDiscrete-v0", out=tmp_path / "run", keep=1, **SMALL).path
    segment = run / "replay/000000000.safetensors"
    tensors = load_file(segment)
    tensors["action"][7] = action
    checkpoint.write_tensors(segment, tensors)
    (last,) = checkpoint.checkpoints(run)
    digest = checkpoint._digest(segment)
    resealed(last / "checkpoint.json", segments={"0": {"steps": 60, "sha256": digest}})
    assert "actions that the environment has not" in refused(thespis.resume, run, steps=90, panel=False)
    tensors["action"] = torch.zeros(60, dtype=torch.int32)
    checkpoint.write_tensors(segment, tensors)
    resealed(last / "checkpoint.json", segments={"0": {"steps": 60, "sha256": checkpoint._digest(segment)}})
    assert "action is (1,) torch.int32, wanted (1,) torch.int64" in refused(thespis.resume, run, steps=90, panel=False)
