"""Checkpoints: whole after a kill at any moment, small, and never believed where they are damaged."""

import contextlib
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import thespis
from tests.engine.ring import held
from thespis.core import Box, Fault, OffPolicy, Spec
from thespis.data import Replay
from thespis.engine import checkpoint

SPEC = Spec(Box(3), Box(2))


def replay(length=100, num_envs=1):
    return Replay(SPEC, OffPolicy(0.99, 1, 8, length, 0, 1.0), num_envs)


def grow(ring, steps, seed=0):
    """Steps like no other; the observation after a step is the next one's."""
    rng = np.random.default_rng((seed, ring.steps))
    last = ring.obs[ring._rows(ring.steps)].copy()
    for _ in range(steps):
        obs, last = last, rng.normal(size=(ring.num_envs, 3)).astype(np.float32)
        action = rng.uniform(-1, 1, (ring.num_envs, 2)).astype(np.float32)
        no = np.zeros(ring.num_envs, bool)
        ring.add(obs, action, rng.normal(size=ring.num_envs), no, rng.random(ring.num_envs) < 0.2, last)


def save(folder, step, ring, keep=2):
    folder.mkdir(exist_ok=True)
    tensors = {"x": torch.full((4,), float(step))}
    return checkpoint.save(folder, step, {"progress": step, "replay_steps": ring.steps}, tensors, ring, keep)


def assert_same(a, b):
    assert a.steps == b.steps
    for x, y in zip(held(a), held(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def files(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.stat().st_size) for p in (folder / "replay").iterdir()}


# ------------------------------------------------------------------------------------------------------- what is written


def test_a_checkpoint_writes_only_the_experience_that_is_new(tmp_path):
    ring = replay(1000)
    grow(ring, 500)
    save(tmp_path, 500, ring)
    first = files(tmp_path)
    assert list(first) == ["000000000.safetensors"]
    grow(ring, 10, 1)
    save(tmp_path, 510, ring)
    second = files(tmp_path)
    assert sorted(second) == ["000000000.safetensors", "000000500.safetensors"]
    assert second["000000000.safetensors"] == first["000000000.safetensors"]  # neither touched nor written again
    assert second["000000500.safetensors"][2] < first["000000000.safetensors"][2] / 10
    sizes = [sum(f.stat().st_size for f in c.iterdir()) for c in checkpoint.checkpoints(tmp_path)]
    assert max(sizes) < 2000  # the experience is in no checkpoint
    loaded = replay(1000)
    checkpoint.load(tmp_path, loaded, pytest.fail)
    assert_same(loaded, ring)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_ring_wraps_and_segments_that_it_has_left_behind_go(tmp_path, num_envs):
    ring = replay(60, num_envs)
    total = 0
    for steps in (7, 20, 33, 5, 90, 1, 1, 13):  # one of them longer than the ring
        grow(ring, steps, total)
        total += steps
        save(tmp_path, total * num_envs, ring, keep=1)
        loaded = replay(60, num_envs)
        meta, tensors = checkpoint.load(tmp_path, loaded, pytest.fail)
        assert meta["progress"] == total * num_envs
        assert tensors["x"].tolist() == [float(total * num_envs)] * 4
        assert_same(loaded, ring)
        spans = {int(k): v["steps"] for k, v in meta["segments"].items()}
        assert all(first + steps > ring.oldest() for first, steps in spans.items())
        assert sorted(files(tmp_path)) == [f"{first:09d}.safetensors" for first in sorted(spans)]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_keep(tmp_path, keep):
    ring = replay(20)
    for step in range(10, 100, 10):
        grow(ring, 10, step)
        save(tmp_path, step, ring, keep)
        assert [int(c.name) for c in checkpoint.checkpoints(tmp_path)] == list(range(10, step + 1, 10))[-keep:]
    wanted = {k for c in checkpoint.checkpoints(tmp_path) for k in json.loads((c / "checkpoint.json").read_text())["segments"]}
    assert {str(int(p.stem)) for p in (tmp_path / "replay").iterdir()} == wanted
    for c in checkpoint.checkpoints(tmp_path)[:0:-1]:  # each of those kept is whole
        shutil.rmtree(c)
        loaded = replay(20)
        meta, _ = checkpoint.load(tmp_path, loaded, pytest.fail)
        assert loaded.steps == meta["progress"]


def test_the_same_step_again_changes_nothing(tmp_path):
    ring = replay()
    grow(ring, 10)
    path = save(tmp_path, 10, ring)
    before = (path.stat().st_mtime_ns, files(tmp_path))
    assert save(tmp_path, 10, ring) == path
    assert (path.stat().st_mtime_ns, files(tmp_path)) == before


# ---------------------------------------------------------------------------------------------------------------- killed


class Killed(BaseException):
    pass


def dying(monkeypatch, at):
    """From the at-th change of the disk on, nothing is done any more, as if the process were gone."""
    count = [0]

    def guard(module, name):
        real = getattr(module, name)

        def function(*args, **kwargs):
            count[0] += 1
            if count[0] >= at:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, function)

    for name in ("replace", "fsync", "mkdir", "unlink", "rmdir", "rename"):
        guard(os, name)
    guard(checkpoint, "save_file")
    return count


@pytest.mark.parametrize("torn", [False, True], ids=["clean", "torn"])
def test_a_kill_at_any_change_of_the_disk_leaves_a_sound_checkpoint(tmp_path, monkeypatch, torn):
    """Every single one in turn: what is loaded is this checkpoint or the one before, and saving goes on from there."""
    rings = {10: replay(25), 20: replay(25), 30: replay(25), 40: replay(25)}
    for step, ring in rings.items():
        for t in range(0, step, 10):
            grow(ring, 10, t)
    start = tmp_path / "start"
    for step in (10, 20, 30):
        save(start, step, rings[step])
    at, seen = 0, set()
    while True:
        at += 1
        folder = tmp_path / f"kill{at}"
        shutil.copytree(start, folder)
        with monkeypatch.context() as patch:
            count = dying(patch, at)
            with contextlib.suppress(Killed):
                save(folder, 40, rings[40])
        if torn:  # what was being written aside may hold anything
            for aside in [*folder.rglob(".*.tmp/*"), *(p for p in folder.rglob(".*.tmp") if p.is_file())]:
                aside.write_bytes(b"torn")
        loaded = replay(25)
        meta, tensors = checkpoint.load(folder, loaded, pytest.fail)
        step = meta["progress"]
        seen.add(step)
        assert step in (30, 40)
        assert tensors["x"].tolist() == [float(step)] * 4
        assert_same(loaded, rings[step])
        if step == 30:
            grow(loaded, 10, 30)
        save(folder, 40, loaded)
        again = replay(25)
        meta, _ = checkpoint.load(folder, again, pytest.fail)
        assert meta["progress"] == 40
        assert_same(again, rings[40])
        shutil.rmtree(folder)
        if count[0] < at:
            break
    assert at > 10  # there were that many places to die
    assert seen == {30, 40}


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What is done to the disk, in order: ("sync" | "rename" | "delete", path); in a folder that goes, only the folder."""
    done, inside = [], []

    def noting(module, name, what, path_of):
        real = getattr(module, name)

        def function(*args, **kwargs):
            if not inside:
                done.append((what, os.path.relpath(path_of(*args), tmp_path)))
            inside.append(name)
            try:
                return real(*args, **kwargs)
            finally:
                inside.pop()

        monkeypatch.setattr(module, name, function)

    noting(os, "fsync", "sync", lambda handle: os.readlink(f"/proc/self/fd/{handle}"))
    noting(os, "replace", "rename", lambda old, new: new)
    noting(os, "unlink", "delete", lambda path, **_: path)
    noting(shutil, "rmtree", "delete", lambda path, **_: path)
    return done


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the name of an open file is read from /proc")
def test_what_is_old_goes_only_when_what_is_new_is_durable(tmp_path, done):
    ring, aside = replay(10), "checkpoints/.{0:09d}.tmp/{1}"
    for step in (10, 20):
        done.clear()
        grow(ring, 10, step)
        save(tmp_path, step, ring, keep=1)
        done[:] = [x for x in done if not (x[0] == "delete" and x[1].endswith(".tmp"))]  # what a kill had left: nothing
        new = [
            ("sync", f"replay/.{step - 10:09d}.safetensors.tmp"),
            ("rename", f"replay/{step - 10:09d}.safetensors"),
            ("sync", "replay"),
            ("sync", aside.format(step, ".tensors.safetensors.tmp")),
            ("rename", aside.format(step, "tensors.safetensors")),
            ("sync", aside.format(step, "")[:-1]),
            ("sync", aside.format(step, ".checkpoint.json.tmp")),
            ("rename", aside.format(step, "checkpoint.json")),
            ("sync", aside.format(step, "")[:-1]),
        ]
        again = {("sync", aside.format(step, name)) for name in ("tensors.safetensors", "checkpoint.json")}
        end = [("sync", aside.format(step, "")[:-1]), ("rename", f"checkpoints/{step:09d}"), ("sync", "checkpoints")]
        old = [("delete", "checkpoints/000000010"), ("delete", "replay/000000000.safetensors")]
        folders = [x for x in done if x == ("sync", ".")]
        assert len(folders) == (2 if step == 10 else 0)  # replay and checkpoints themselves
        found = [x for x in done if x != ("sync", ".")]
        assert found[:9] == new
        assert set(found[9:11]) == again
        assert found[11:] == end + (old if step == 20 else [])


# --------------------------------------------------------------------------------------------------------------- damaged


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def flip_a_digit(path):
    text = path.read_text()
    path.write_text(text.replace('"progress": 30', '"progress": 31'))
    assert text != path.read_text()


def text(words):
    return lambda path: path.write_text(words)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch BOMB",))


def bomb(path):
    path.write_bytes(pickle.dumps(Bomb()))


def torch_bomb(path):
    torch.save({"x": Bomb()}, path)


def other_format(path):
    about = json.loads(path.read_text()) | {"format": 7}
    about.pop("sha256")
    path.write_text(json.dumps(about | {"sha256": checkpoint._seal(about)}))


DAMAGE = {
    "truncated tensors": ("checkpoints/000000030/tensors.safetensors", truncate),
    "empty tensors": ("checkpoints/000000030/tensors.safetensors", text("")),
    "a byte of the tensors": ("checkpoints/000000030/tensors.safetensors", flip),
    "other tensors": ("checkpoints/000000030/tensors.safetensors", lambda p: save_file({"x": torch.zeros(4)}, p)),
    "no tensors": ("checkpoints/000000030/tensors.safetensors", os.remove),
    "a folder for tensors": ("checkpoints/000000030/tensors.safetensors", lambda p: (p.unlink(), p.mkdir())),
    "pickled tensors": ("checkpoints/000000030/tensors.safetensors", bomb),
    "torch's tensors": ("checkpoints/000000030/tensors.safetensors", torch_bomb),
    "no json": ("checkpoints/000000030/checkpoint.json", os.remove),
    "empty json": ("checkpoints/000000030/checkpoint.json", text("")),
    "garbage json": ("checkpoints/000000030/checkpoint.json", lambda p: p.write_bytes(bytes(range(128, 256)))),
    "truncated json": ("checkpoints/000000030/checkpoint.json", truncate),
    "foreign json": ("checkpoints/000000030/checkpoint.json", text('{"name": "left-pad", "version": "1.3.0"}')),
    "a list": ("checkpoints/000000030/checkpoint.json", text("[1, 2]")),
    "endless json": ("checkpoints/000000030/checkpoint.json", text("[" * 100_000)),
    "the format alone": ("checkpoints/000000030/checkpoint.json", text('{"format": 1}')),
    "a digit of the json": ("checkpoints/000000030/checkpoint.json", flip_a_digit),
    "pickled json": ("checkpoints/000000030/checkpoint.json", bomb),
    "another format": ("checkpoints/000000030/checkpoint.json", other_format),
    "no segment": ("replay/000000020.safetensors", os.remove),
    "a truncated segment": ("replay/000000020.safetensors", truncate),
    "a byte of a segment": ("replay/000000020.safetensors", flip),
    "a foreign segment": ("replay/000000020.safetensors", lambda p: save_file({"y": torch.zeros(3)}, p)),
    "a pickled segment": ("replay/000000020.safetensors", torch_bomb),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_a_damaged_checkpoint_the_one_before_is_taken_and_that_is_said(tmp_path, monkeypatch, damage):
    name, harm = DAMAGE[damage]
    rings = {}
    ring = replay()
    for step in (10, 20, 30):
        grow(ring, 10, step)
        save(tmp_path, step, ring)
        rings[step] = replay()
        checkpoint.load(tmp_path, rings[step], pytest.fail)
    monkeypatch.chdir(tmp_path)
    harm(tmp_path / name)
    said, loaded = [], replay()
    meta, tensors = checkpoint.load(tmp_path, loaded, said.append)
    assert meta["progress"] == 20
    assert tensors["x"].tolist() == [20.0] * 4
    assert_same(loaded, rings[20])
    assert len(said) == 1
    assert name in said[0]  # which file
    assert "\n" not in said[0]
    assert said[0].endswith("; taking the checkpoint before it")
    assert not (tmp_path / "BOMB").exists()  # nothing was unpickled

    said.clear()  # from now on it is out of the way, and the run goes on
    checkpoint.load(tmp_path, replay(), said.append)
    assert said == []
    grow(loaded, 10, 30)
    save(tmp_path, 30, loaded)
    again = replay()
    meta, _ = checkpoint.load(tmp_path, again, pytest.fail)
    assert meta["progress"] == 30
    assert_same(again, ring)


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_the_only_checkpoint_the_damage_is_a_fault_of_one_line_and_the_files_stay(tmp_path, monkeypatch, damage):
    name, harm = DAMAGE[damage]
    ring = replay()
    grow(ring, 20)
    save(tmp_path, 20, ring, keep=1)
    grow(ring, 10)
    save(tmp_path, 30, ring, keep=1)
    monkeypatch.chdir(tmp_path)
    harm(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Fault) as fault:
        checkpoint.load(tmp_path, replay(), pytest.fail)
    assert name in str(fault.value)
    assert "\n" not in str(fault.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_where_all_are_damaged_none_is_moved(tmp_path):
    """A newer version may read what this one cannot."""
    ring = replay()
    for step in (10, 20, 30):
        grow(ring, 10, step)
        other_format(save(tmp_path, step, ring, keep=3) / "checkpoint.json")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Fault, match=r"000000030.*format 2"):
        checkpoint.load(tmp_path, replay(), pytest.fail)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("harm", [os.remove, text("{"), text("[]"), text('{"segments": 3}')])
def test_damage_to_an_older_checkpoint_stops_no_run(tmp_path, harm):
    ring = replay()
    for step in (10, 20, 30):
        grow(ring, 10, step)
        save(tmp_path, step, ring, keep=3)
    harm(tmp_path / "checkpoints" / "000000020" / "checkpoint.json")
    grow(ring, 10, 40)
    save(tmp_path, 40, ring, keep=3)
    loaded = replay()
    checkpoint.load(tmp_path, loaded, pytest.fail)
    assert_same(loaded, ring)


def test_experience_that_does_not_fit_is_refused(tmp_path):
    ring = replay(30, 2)
    for step in range(10, 100, 10):
        grow(ring, 10, step)
        save(tmp_path, step, ring)
    for other in (
        replay(30, 1),  # as many columns, but other rows
        replay(60, 2),  # more than was kept
        Replay(Spec(Box(4), Box(2)), ring.feed, 2),
        Replay(Spec(Box(3), Box(1)), ring.feed, 2),
    ):
        with pytest.raises(Fault, match=r"replay/0000000\d0.safetensors does not fit"):
            checkpoint.load(tmp_path, other, pytest.fail)
    smaller = replay(10, 2)  # this can be done: the newest steps
    checkpoint.load(tmp_path, smaller, pytest.fail)
    np.testing.assert_array_equal(smaller.obs[smaller._rows(89)], ring.obs[ring._rows(89)], strict=True)


def test_nothing_saved_is_told(tmp_path):
    with pytest.raises(Fault, match="holds no checkpoint"):
        checkpoint.load(tmp_path, replay(), pytest.fail)


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    ring = replay()
    grow(ring, 10)
    save(tmp_path, 10, ring)
    grow(ring, 10, 1)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(Fault, match=r"replay/000000010.safetensors could not be written: No space left on device; what was"):
        save(tmp_path, 20, ring)
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".*"))  # nor does half a file take room
    loaded = replay()
    meta, _ = checkpoint.load(tmp_path, loaded, pytest.fail)
    assert meta["progress"] == 10
    save(tmp_path, 20, ring)
    checkpoint.load(tmp_path, again := replay(), pytest.fail)
    assert_same(again, ring)


# ------------------------------------------------------------------------------------------------------------ a whole run

TINY = {
    "hidden": (8,), "batch_size": 16, "warmup": 20, "steps": 120, "eval_every": 70, "eval_episodes": 1,
    "log_every": 40, "checkpoint_every": 40, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of 120 steps with checkpoints at 80 and 120."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    thespis.train("sac", env="Pendulum-v1", out=folder, **TINY)
    return folder


def outcome(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("time/seconds", "time/steps_per_second")} for row in rows]
    last = checkpoint.checkpoints(folder)[-1]
    tensors = load_file(last / "tensors.safetensors") | {
        f"policy.{k}": v for k, v in load_file(folder / "policy/last.safetensors").items()
    }
    return tensors, rows


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("checkpoints/000000120/tensors.safetensors", truncate),
        ("checkpoints/000000120/tensors.safetensors", flip),
        ("checkpoints/000000120/checkpoint.json", text("{")),
        ("replay/000000080.safetensors", os.remove),
        ("replay/000000080.safetensors", flip),
    ],
)
def test_a_run_goes_on_from_the_checkpoint_before_and_equals_the_undisturbed_one(tmp_path, capsys, whole, name, harm):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    harm(folder / name)
    result = thespis.resume(folder, panel=False)
    assert result.finished
    said = [line for line in capsys.readouterr().out.splitlines() if "taking the checkpoint before it" in line]
    assert len(said) == 1
    assert name in said[0]
    (tensors, rows), (wanted, wanted_rows) = outcome(folder), outcome(whole)
    assert tensors.keys() == wanted.keys()
    assert all(tensors[k].equal(wanted[k]) for k in wanted)
    assert rows == wanted_rows


def edited(folder, **fields):
    """config.json with other fields of the algorithm or of the run."""
    about = json.loads((folder / "config.json").read_text())
    for part in ("algo_config", "run"):
        about[part] |= {k: v for k, v in fields.items() if k in about[part]}
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden": [9]}, ["checkpoints/000000120", "does not fit", "actor.", "(8,)", "(9,)"]),
        ({"hidden": []}, ["checkpoints/000000120", "does not fit", "actor.", "(8,)", "(2,)"]),
        ({"critics": 3}, ["checkpoints/000000120", "does not fit", "critic.", "(2, 8)", "(3, 8)"]),
        ({"env": "MountainCarContinuous-v0"}, ["env: MountainCarContinuous-v0 has other observations", "(2,)", "(3,)"]),
        ({"num_envs": 2}, ["replay/000000000.safetensors", "does not fit", "num_envs"]),
        ({"lr": "fast"}, ["config.json", "lr", "'fast'", "a number above 0"]),
        ({"steps": 0}, ["config.json", "steps is 0"]),
        ({"env": 3}, ["config.json", "env is 3"]),
    ],
)
def test_a_configuration_that_no_longer_fits_its_checkpoint(tmp_path, whole, fields, words):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    edited(folder, **fields)
    before = sorted(folder.rglob("*"))
    with pytest.raises(Fault) as fault:
        thespis.resume(folder, panel=False)
    assert all(word in str(fault.value) for word in words), fault.value
    assert "\n" not in str(fault.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "words", ["", "{", "[]", '"sac"', "{}", '{"algo": 5}', '{"algo": "sac", "algo_config": 3, "run": {}}', '{"name": "left-pad"}']
)
def test_a_configuration_that_is_damaged_or_foreign(tmp_path, whole, words):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "config.json").write_text(words)
    for use in (thespis.resume, thespis.evaluate):
        with pytest.raises(Fault, match=r"config\.json is damaged") as fault:
            use(folder)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize(
    ("suffix", "harm"),
    [
        ("safetensors", truncate),
        ("safetensors", text("")),
        ("safetensors", os.remove),
        ("safetensors", bomb),
        ("safetensors", torch_bomb),
        ("safetensors", lambda p: save_file({"w0": torch.zeros(3, 8)}, p)),
        ("json", truncate),
        ("json", os.remove),
        ("json", bomb),
        ("json", text("[]")),
        ("json", text('{"algo": 5}')),
        ("json", lambda p: p.write_text(p.read_text().replace('"kind": "box"', '"kind": "fox"'))),
        ("json", lambda p: p.write_text(p.read_text().replace('"step": ', '"stop": '))),
        ("json", lambda p: p.write_text(p.read_text().replace('"lr": ', '"rl": '))),
    ],
)
def test_a_damaged_policy(tmp_path, monkeypatch, whole, which, suffix, harm):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(tmp_path)
    harm(folder / "policy" / f"{which}.{suffix}")
    for use in (thespis.load, thespis.evaluate):
        with pytest.raises(Fault) as fault:
            use(folder, which=which)
        assert f"policy/{which}.{suffix}" in str(fault.value)
        assert "\n" not in str(fault.value)
    assert not (tmp_path / "BOMB").exists()
    thespis.load(folder, {"last": "best", "best": "last"}[which])  # the other is as it was
