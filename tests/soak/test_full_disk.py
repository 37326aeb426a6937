"""A disk without room: one line, nothing half-written, and with room again the run goes on to the bit.

On a small disk of its own (tmpfs, which only root may mount), and with a limit on the size of a file, which anybody may set.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.data import Replay
from thespis.engine import checkpoint, log
from thespis.report import curve

FLAGS = {
    "--env": "thespis/Counter-v0", "--steps": 200, "--warmup": 20, "--hidden": 8, "--batch-size": 8, "--eval-every": 60,
    "--eval-episodes": 1, "--log-every": 8, "--checkpoint-every": 16, "--compile-after": -1, "--replay-size": 80,
}  # fmt: skip
PAGE = 4096


def train(folder):
    if (folder / "config.json").exists():
        return cli.main(["resume", str(folder)])
    return cli.main(["train", "sac", *(str(x) for pair in FLAGS.items() for x in pair), "--out", str(folder)])


def outcome(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("time/s")} for row in rows]
    last = checkpoint.checkpoints(folder)[-1]
    files = [last / "tensors.safetensors", *sorted((folder / "policy").glob("*.safetensors"))]
    said = [json.loads(f.read_text()) for f in sorted((folder / "policy").glob("*.json"))]
    return {f"{f.name} {k}": v for f in files for k, v in load_file(f).items()}, rows, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder) == 0
    return outcome(folder)


def assert_same(folder, whole):
    (tensors, *others), (wanted, *wanted_others) = outcome(folder), whole
    assert tensors.keys() == wanted.keys()
    assert [k for k in wanted if not tensors[k].equal(wanted[k])] == []
    assert others == wanted_others
    assert curve.curve(folder).stat().st_size > 10_000


def assert_sound(folder):
    """Whatever has its final name is whole."""
    assert [p for p in folder.rglob("*") if p.name.endswith(".tmp")] == []
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())
    if (folder / "metrics.jsonl").exists():
        text = (folder / "metrics.jsonl").read_text()
        assert text == "" or text.endswith("\n")
        assert all("step" in json.loads(line) for line in text.splitlines())
    for file in folder.rglob("*.safetensors"):
        checkpoint.read_tensors(file)
    for which in ("last", "best"):
        if (folder / f"policy/{which}.json").exists():
            thespis.load(folder, which)
    if (folder / "config.json").exists() and checkpoint.checkpoints(folder):
        world, learner, *_ = opened(folder)
        checkpoint.load(folder, Replay(world.spec, learner.experience), pytest.fail)


def opened(folder):
    about, found, cfg, run, world = thespis.api.open_run(folder, None, None)
    return world, found.module.make(cfg, world.spec), about, run


def assert_told(code, capfd, words):
    """One line on standard error, and no traceback from anywhere."""
    out, err = capfd.readouterr()
    assert code == 2, (out, err)
    assert "Traceback" not in out + err
    assert err.startswith("thespis: ")
    assert err.count("\n") == 1, err
    assert words in err, err


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 2 MB."""
    folder = tmp_path_factory.mktemp("disk")
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"there is no mount here ({error})")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here, which only root may do ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def room(disk, free):
    """Leaves `free` bytes of the disk, besides what is on it."""
    filler, about = disk / "filler", os.statvfs(disk)
    filler.write_bytes(bytes(max(about.f_bavail * about.f_bsize - free, 0)))
    try:
        yield
    finally:
        filler.unlink()


def fill_and_go_on(disk, whole, capfd, free, more):
    """Trains with `free` bytes of room; each time that it is full, with `more` than was left, until it is done: how often."""
    folder, full = disk / "run", 0
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        with room(disk, free):
            code = train(folder)
        if code == 0:
            break
        assert_told(code, capfd, "No space left on device")
        assert_sound(folder)
        full, free = full + 1, more
        assert full < 50
    assert_same(folder, whole)
    assert_sound(folder)
    capfd.readouterr()
    return full


@pytest.mark.parametrize("pages", [0, 2, 9, 23, 31])
def test_a_disk_that_fills_stops_the_run_and_with_room_it_goes_on_to_the_bit(disk, whole, capfd, pages):
    assert fill_and_go_on(disk, whole, capfd, pages * PAGE, 2**20) == 1
    events = EventAccumulator(str(disk / "run/tensorboard")).Reload()
    rows = [row for row in whole[1] if "train/q" in row]
    assert [e.step for e in events.Scalars("train/q")] == [row["step"] for row in rows]


@pytest.mark.soak
def test_full_at_every_page_of_a_run(disk, whole, capfd, record):
    full = [fill_and_go_on(disk, whole, capfd, pages * PAGE, 2**20) for pages in range(45)]
    assert sum(full) > 30
    record("full_disk", once={"runs": len(full), "times full": sum(full), "differences": 0})


@pytest.mark.soak
def test_full_again_and_again(disk, whole, capfd, record):
    full = [fill_and_go_on(disk, whole, capfd, pages * PAGE, pages * PAGE) for pages in (16, 17, 18, 20)]
    assert min(full) > 1
    record("full_disk", again={"runs": len(full), "times full": sum(full), "most in one run": max(full), "differences": 0})


@pytest.mark.parametrize("limit", [500, 4000, 12_000, 16_000])
def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is(tmp_path, whole, capfd, limit):
    """config.json, a policy, the first checkpoint, the metrics: each is too large for one of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = train(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_told(code, capfd, "File too large")
    assert_sound(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    assert_same(tmp_path / "run", whole)


def test_a_picture_that_finds_no_room_leaves_the_one_before(tmp_path, whole):
    train(tmp_path / "run")
    picture = tmp_path / "run/curve.png"
    before = picture.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Fault, match=r"curve.png could not be drawn: File too large"):
            curve.curve(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert picture.read_bytes() == before
    assert not list((tmp_path / "run").glob(".curve*"))


def test_a_row_that_finds_no_room_is_not_there_in_part(tmp_path):
    rows = log._Whole(tmp_path / "rows")
    rows.write(b"first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(Fault, match="could not be written"):
            rows.write(b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "rows").read_bytes() == b"first\n"
    rows.write(b"second\n")
    assert (tmp_path / "rows").read_bytes() == b"first\nsecond\n"
