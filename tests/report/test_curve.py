"""The learning curve: what is drawn, of what, and where files are damaged or empty."""

import importlib
import json
import math
import struct
import sys
import time

import numpy as np
import pytest
from matplotlib.figure import Figure

from thespis.core import Fault
from thespis.report import curve as report

ROWS = [
    {"step": 0, "eval/return_mean": -5.0, "eval/return_std": 1.0, "eval/returns": [-6.0, -4.0]},
    {"step": 1000, "episode/return": 3.0, "train/loss": 1.0},
    {"step": 2000, "episode/return": None},
    {"step": 2000, "eval/return_mean": None, "eval/return_std": None},
    {"step": 4000, "eval/return_mean": 7.0, "eval/return_std": 2.0},
    {"step": 5000, "eval/return_mean": 8.0, "eval/return_std": None, "episode/return": 9.0},
]


def write(run, rows, tail="", config=None):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    if config:
        (run / "config.json").write_text(json.dumps(config))
    return run


def axes(rows):
    (axes,) = report.figure(rows, "a run").axes
    return axes


def size(png):
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_rows_leave_out_a_torn_last_line(tmp_path):
    assert report.rows(write(tmp_path, ROWS, tail='{"step": 6000, "eval/ret')) == ROWS
    assert report.rows(write(tmp_path, ROWS)) == ROWS


def test_rows_of_a_run_that_has_none_yet(tmp_path):
    assert report.rows(tmp_path) == []
    assert report.rows(write(tmp_path, [])) == []


def test_damage_in_the_middle_is_told(tmp_path):
    run = write(tmp_path, ROWS[:2], tail='{"step": 20\n{"step": 3000}\n')
    with pytest.raises(Fault, match=r"metrics\.jsonl: line 3 is not JSON$"):
        report.rows(run)


def test_no_run_there_is_told(tmp_path):
    with pytest.raises(Fault, match=r"^run: .*absent is not a directory$"):
        report.curve(tmp_path / "absent")


def test_what_is_drawn():
    drawn = axes(ROWS)
    (line,) = drawn.lines
    assert line.get_xydata().tolist() == [[0, -5], [4000, 7], [5000, 8]]
    band, episodes, _ = drawn.collections
    corners = {tuple(p) for p in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0, -6), (0, -4), (4000, 5), (4000, 9), (5000, 8)}
    assert episodes.get_offsets().tolist() == [[1000, 3], [5000, 9]]
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("environment steps", "return of an episode")
    assert drawn.get_title(loc="left") == "a run"
    told = [t.get_text() for t in drawn.get_legend().get_texts()]
    assert told == ["evaluation, mean", "± 1 std of its episodes", "training episodes"]
    assert list(drawn.texts) == []


def test_ticks_are_read_at_a_glance():
    ticks = axes([{"step": 1_000_000, "eval/return_mean": -1500.0}]).xaxis.get_major_formatter()
    assert [ticks(v, None) for v in (0, 250_000, 1_000_000, -1500, 0.1 + 0.2)] == ["0", "250k", "1M", "−1.5k", "0.3"]


def test_no_rows():
    drawn = axes([])
    assert [t.get_text() for t in drawn.texts] == ["no evaluations yet"]
    assert (drawn.get_legend(), drawn.lines[:], list(drawn.get_xticks())) == (None, [], [])


def test_episodes_alone():
    drawn = axes([r for r in ROWS if "episode/return" in r and "eval/return_mean" not in r])
    assert [t.get_text() for t in drawn.texts] == ["no evaluations yet"]
    assert drawn.collections[0].get_offsets().tolist() == [[1000, 3]]


def test_one_evaluation_is_a_marker_with_its_spread():
    (line,) = (drawn := axes(ROWS[:1])).lines
    assert (line.get_marker(), line.get_markersize() > 0) == ("o", True)
    assert drawn.collections[0].get_linewidth()[0] > 0
    assert drawn.get_xlim()[0] < 0 < drawn.get_xlim()[1]


@pytest.mark.parametrize(
    "rows", [[], ROWS[:1], ROWS[1:2], ROWS, [{"step": 0, "eval/return_mean": 1e300, "eval/return_std": 1e300}]]
)
def test_the_picture_is_1280_by_720(tmp_path, rows):
    path = report.curve(write(tmp_path, rows, tail='{"torn'))
    assert path == tmp_path / "curve.png"
    assert size(path) == (1280, 720)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.png", "metrics.jsonl"]


def test_a_kill_while_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    before = report.curve(write(tmp_path, ROWS[:1])).read_bytes()

    def killed(self, path, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        report.curve(write(tmp_path, ROWS))
    assert (tmp_path / "curve.png").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "title"),
    [
        ({"algo": "sac", "run": {"env": "Hopper-v5", "seed": 3}}, "SAC on Hopper-v5, seed 3"),
        ({"algo": "mine/dsac_t.py", "run": {"env": "Hopper-v5", "seed": 3}}, "DSAC-T on Hopper-v5, seed 3"),
        ({"algo": "sac"}, "run-7"),
        ({"algo": None, "run": []}, "run-7"),
        ({}, "run-7"),
    ],
)
def test_the_title(tmp_path, monkeypatch, config, title):
    titles = []
    real = report.figure
    monkeypatch.setattr(report, "figure", lambda rows, title, beside: titles.append(title) or real(rows, title))
    report.curve(write(tmp_path / "run-7", ROWS[:1], config=config))
    assert titles == [title]


def test_a_torn_config_is_no_config(tmp_path):
    (write(tmp_path / "run-7", ROWS[:1]) / "config.json").write_text('{"algo": "sa')
    assert size(report.curve(tmp_path / "run-7")) == (1280, 720)


def test_a_million_steps_take_less_than_two_seconds(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"step": 100 * i, "episode/return": float(x), "episode/length": 100} for i, x in enumerate(rng.normal(size=10_000))]
    rows += [{"step": 1000 * i, "eval/return_mean": math.sin(i), "eval/return_std": 0.1} for i in range(1000)]
    run = write(tmp_path, rows)
    began = time.process_time()
    report.curve(run)
    assert time.process_time() - began < 2


def test_no_global_state_of_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    assert len(importlib.reload(report).figure(ROWS, "a run").axes) == 1
