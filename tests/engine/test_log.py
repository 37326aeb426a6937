"""What people and files are told: exact lines, strict JSON, resuming, sinks, and a terminal that is always given back."""

import io
import json
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.live import Live
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from thespis.core import Fault
from thespis.engine.log import Log, Pace, _duration, _number

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class AsciiTerminal(Terminal):
    encoding = "ascii"


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def make(path, total=100, **options):
    return Log(path, "a run", total, **({"sinks": (), "file": io.StringIO()} | options))


# ---------------------------------------------------------------------------------------------------------- the file


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_row_is_one_line_of_strict_json(tmp_path):
    with make(tmp_path) as log:
        log.row(np.int64(3), {"train/a": torch.tensor(0.5), "train/b": np.float32(0.25), "train/n": 7})
        log.row(
            4, {"train/a": math.nan, "train/b": -math.inf, "eval/returns": [1.0, math.inf], "eval/x": np.array([2.0, math.nan])}
        )
        assert strict((tmp_path / "metrics.jsonl").read_text()) == [  # before close: each row is on disk at once
            {"step": 3, "train/a": 0.5, "train/b": 0.25, "train/n": 7},
            {"step": 4, "train/a": None, "train/b": None, "eval/returns": [1.0, None], "eval/x": [2.0, None]},
        ]


def logged(path, *steps, tail=""):
    text = "".join(json.dumps({"step": s, "eval/return_mean": 100.0 - s, "eval/return_std": 1.0}) + "\n" for s in steps)
    (path / "metrics.jsonl").write_text(text + tail)


@pytest.mark.parametrize("tail", ["", '{"step": 20, "eval/retu', '{"step": 20, "eval/return_mean": 80.0}', '{"step": 40}\n{"st'])
def test_resuming_takes_away_what_is_logged_anew(tmp_path, tail):
    logged(tmp_path, 0, 10, 20, 20, 30, tail=tail)
    with make(tmp_path, at=20) as log:
        log.row(30, {"eval/return_mean": 5.0})
        assert (log.best, log.evaluated) == ((0, 100.0), (30, 5.0, None))  # the best of before counts on
    assert [(r["step"], r["eval/return_mean"]) for r in strict((tmp_path / "metrics.jsonl").read_text())] == [
        (0, 100.0), (10, 90.0), (20, 80.0), (20, 80.0), (30, 5.0),
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resuming_at_the_start_keeps_its_evaluation(tmp_path):
    logged(tmp_path, 0, 10)
    make(tmp_path, at=0).close()
    assert [r["step"] for r in strict((tmp_path / "metrics.jsonl").read_text())] == [0]


def test_what_is_not_a_number_is_never_the_best(tmp_path):
    with make(tmp_path) as log:
        for step, mean in enumerate([math.nan, -3.0, math.inf, -4.0]):
            log.row(step, {"eval/return_mean": mean, "eval/return_std": 0.0})
        assert (log.best, log.evaluated) == ((1, -3.0), (3, -4.0, 0.0))


def test_a_kill_while_trimming_loses_nothing(tmp_path, monkeypatch):
    logged(tmp_path, 0, 10, 20)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, at=10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_file_with_nothing_to_take_away_is_left_alone(tmp_path):
    logged(tmp_path, 0, 10)
    inode = (tmp_path / "metrics.jsonl").stat().st_ino
    make(tmp_path, at=10).close()
    assert (tmp_path / "metrics.jsonl").stat().st_ino == inode


# --------------------------------------------------------------------------------------------------------- the sinks


def test_tensorboard_shows_the_resumed_rows_and_not_the_lost_ones(tmp_path):
    with make(tmp_path, sinks=("tensorboard",)) as log:
        for step in (0, 10, 20, 30):
            log.row(step, {"train/loss": float(step), "eval/returns": [1.0]})
        seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()  # before close: a kill now would lose nothing
        assert [(e.step, e.value) for e in seen.Scalars("train/loss")] == [(0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0)]
    with make(tmp_path, at=20, sinks=("tensorboard",)) as log:
        log.row(25, {"train/loss": -25.0})
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert seen.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, e.value) for e in seen.Scalars("train/loss")] == [(0, 0.0), (10, 10.0), (20, 20.0), (25, -25.0)]


@pytest.fixture
def calls(monkeypatch):
    """Fakes of both packages, with the real ones' signatures, that note what they are asked."""
    calls = []

    def wandb_init(*, project, entity, group, tags, name, dir, id, resume, config, allow_val_change, settings):
        print("wandb greets")
        calls.append(("whose", project, entity, group, tags))
        calls.append(("init", project, name, dir, len(id) > 8 and id, resume, config, settings))
        return SimpleNamespace(
            define_metric=lambda name, step_metric: calls.append(("axis", name, step_metric)),
            log=lambda data, step=None: calls.append(("log", data, step)),
            finish=lambda: calls.append(("finish",)),
        )

    def trackio_init(project, name, *, config, resume):
        print("trackio greets")
        calls.append(("init", project, name, config, resume))
        return SimpleNamespace(log=lambda metrics, step=None: calls.append(("log", metrics, step)))

    def trackio_finish():
        print("trackio leaves")
        calls.append(("finish",))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=wandb_init))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=trackio_init, finish=trackio_finish))
    return calls


def test_wandb(tmp_path, calls):
    for at in (0, 20):
        with make(tmp_path / "sac-0", at=at, sinks=("wandb",), config={"lr": 0.1}) as log:
            log.row(at + 10, {"train/a": 1.0, "eval/returns": [1.0, 2.0]})
    name = calls[1][4]
    whose = ("whose", "thespis", None, None, None)
    started = ("init", "thespis", "sac-0", tmp_path / "sac-0", name, "allow", {"lr": 0.1}, {"console": "off"})
    one = [whose, started, ("axis", "*", "step")]
    assert name
    assert calls == [
        *one, ("log", {"train/a": 1.0, "step": 10}, None), ("finish",),
        *one, ("log", {"train/a": 1.0, "step": 30}, None), ("finish",),
    ]  # fmt: skip
    make(tmp_path / "again" / "sac-0", sinks=("wandb",)).close()
    assert calls[-3][2] == "sac-0"
    assert calls[-3][4] != name  # the same name elsewhere is another run
    names = {"wandb_project": "arms", "wandb_entity": "lab", "wandb_group": "lr", "wandb_tags": ["a", "b"]}
    make(tmp_path / "whose", sinks=("wandb",), config={"run": names}).close()
    assert ("whose", "arms", "lab", "lr", ["a", "b"]) in calls


def test_trackio(tmp_path, calls, capsys):
    file = io.StringIO()
    for at in (0, 20):
        with make(tmp_path / "sac-0", at=at, sinks=("trackio",), config={"lr": 0.1}, file=file) as log:
            log.row(at + 10, {"train/a": 1.0, "eval/returns": [1.0, 2.0]})
    assert calls == [
        ("init", "thespis", "sac-0", {"lr": 0.1}, "never"), ("log", {"train/a": 1.0}, 10), ("finish",),
        ("init", "thespis", "sac-0", {"lr": 0.1}, "allow"), ("log", {"train/a": 1.0}, 30), ("finish",),
    ]  # fmt: skip
    assert capsys.readouterr().out == ""  # stdout may be kept for a command's answer
    assert file.getvalue().splitlines()[0] == "trackio greets"
    assert file.getvalue().splitlines()[-1] == "trackio leaves"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Fault, match=rf'^sinks: {name} cannot be imported .*: pip install "thespis\[{name}\]"$'):
        make(tmp_path / "run", sinks=(name,))
    assert not (tmp_path / "run").exists()


def test_an_unknown_sink_lists_those_allowed(tmp_path):
    with pytest.raises(Fault, match=r'^sinks: "mlflow" is none of tensorboard, wandb, trackio$'):
        make(tmp_path / "run", sinks=("tensorboard", "mlflow"))
    assert not (tmp_path / "run").exists()


def test_a_sink_that_does_not_start_is_told_in_one_line_and_the_others_are_closed(tmp_path, monkeypatch, calls):
    def refuse(**_):
        raise RuntimeError("not logged in\nlong story")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    file = Terminal()
    with pytest.raises(Fault, match=r"^sinks: wandb did not start \(not logged in\)$"):
        make(tmp_path, sinks=("trackio", "wandb"), file=file)
    assert calls[-1] == ("finish",)
    assert HIDE not in file.getvalue()


# --------------------------------------------------------------------------------------------------------- plain lines


def test_plain_lines(tmp_path):
    clock, file = Clock(), io.StringIO()
    with make(tmp_path, 100_000, file=file, clock=clock) as log:
        log.row(0, {"eval/return_mean": -5.0, "eval/return_std": 0.25})
        clock.now += 50
        log.row(10_000, {"episode/return": 3.0, "time/steps_per_second": 1.0})  # episodes alone make no line
        values = {"train/critic_loss": 0.123, "train/entropy": -5.9, "train/alpha": 0.21, "train/q": 12345.6}
        log.row(10_000, {"eval/return_mean": 1234.5, "eval/return_std": 56.7, "eval/returns": [1.0], **values})
        log.note("compiled in 12 s")
        clock.now += 50
        log.row(20_000, {"train/critic_loss": math.nan})
        log.row(102_000, {"train/critic_loss": 1e-9})
    assert file.getvalue() == (
        "step 0/100,000  return -5.000 ± 0.250\n"
        "step 10,000/100,000  200/s  left 7m 30s  return 1234.5 ± 56.7"
        "  critic_loss 0.123  entropy -5.9  alpha 0.21  q 12,346\n"
        "compiled in 12 s\n"
        "step 20,000/100,000  200/s  left 6m 40s  critic_loss nan\n"
        "step 102,000/100,000  200/s  left 0s  critic_loss 1e-09\n"
    )


def test_plain_lines_go_to_stdout_and_survive_a_narrow_encoding(tmp_path, capsys, monkeypatch):
    with make(tmp_path / "a", file=None, clock=Clock()) as log:
        log.row(1, {"eval/return_mean": 1.0, "eval/return_std": 0.5})
    assert capsys.readouterr().out == "step 1/100  return 1.000 ± 0.500\n"
    raw = io.BytesIO()
    with make(tmp_path / "b", file=io.TextIOWrapper(raw, encoding="ascii")) as log:
        log.note("1 ± 2")
        assert raw.getvalue() == b"1 ? 2\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (612, "10m 12s"), (3600, "1h 00m"), (86399, "23h 59m"), (266400, "3d 02h")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.12345, "0.1235"), (-210.34, "-210.3"), (9999.4, "9999"), (9999.6, "10,000"), (-123456.7, "-123,457"),
        (12345678.0, "1.235e+07"), (1.23456e-5, "1.235e-05"), (1000, "1000"), (math.inf, "inf"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert _number(value) == text


def test_pace():
    pace = Pace(500, 10.0, memory=30.0)
    assert pace.rate == 0.0
    pace.at(500, 10.0)
    assert pace.rate == 0.0
    for i in range(1, 11):
        pace.at(500 + 1000 * i, 10.0 + 10 * i)
    assert pace.rate == pytest.approx(100.0)  # a constant speed is told exactly, from the first second on
    pace = Pace(0, 0.0, memory=30.0)
    pace.at(1000, 10.0)
    pace.at(1000, 20.0)  # a pause
    e = math.exp(-1 / 3)
    assert pace.rate == pytest.approx(1000 * e / (10 * e + 10))
    for i in range(1, 61):
        pace.at(1000 + 50 * i, 20.0 + 5 * i)
    assert pace.rate == pytest.approx(10.0, rel=1e-3)  # ten memories later the old speed is forgotten


# ----------------------------------------------------------------------------------------------------------- the panel

METRICS = ("critic_loss", "actor_loss", "entropy", "alpha", "q_mean", "td_abs", "target_mean")


def shown(log, width, height):
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    console.print(log.picture(width, height))
    return console.export_text().splitlines()


def filled(path, names=METRICS):
    clock = Clock()
    log = make(path, 1_000_000, panel=False, clock=clock)
    log.row(300_000, {"eval/return_mean": -12345.6, "eval/return_std": 10234.5, "eval/returns": [1.0]})
    clock.now += 2000
    values = {f"train/{name}": -(1.001 + i / 1000) * 1e-5 for i, name in enumerate(names)}
    log.row(400_000, {"eval/return_mean": -12456.7, "eval/return_std": 1023.4, **values})
    log.row(400_000, {"episode/return": -1300.25, "episode/length": 1000.0, "time/seconds": 1.0, "replay/full": 0.5})
    return log


@pytest.mark.parametrize("width", [80, 120])
def test_the_panel_cuts_nothing(tmp_path, width):
    lines = shown(filled(tmp_path), width, 24)
    text = "\n".join(lines)
    assert {len(line) for line in lines} == {width}
    assert "…" not in text
    assert "a run" in lines[0]
    assert lines[1].count("━") == int((width - 10) * 0.4)
    assert lines[1].endswith(" 40% │")
    assert "step 400,000/1,000,000   ran 33m 20s   speed 200/s   left 50m 00s" in lines[2]
    assert "evaluation  -12456.7 ± 1023.4 at 400,000   best -12345.6 at 300,000" in lines[4]
    assert "episode     return -1300   length 1000" in lines[5]
    for i, name in enumerate(METRICS):
        assert f" {name} " in text
        assert f" -1.00{i + 1}e-05 " in text
    assert "replay/full" in text  # whatever comes is shown
    assert "time/" not in text


def test_a_narrow_panel_folds_and_loses_nothing(tmp_path):
    lines = shown(filled(tmp_path), 40, 40)
    assert {len(line) for line in lines} == {40}
    words = " ".join(line.strip("│ ") for line in lines)
    for word in ("400,000/1,000,000", "200/s", "50m 00s", "-12456.7 ± 1023.4", "-12345.6 at 300,000", "-1300", *METRICS):
        assert word in words


def test_more_metrics_than_lines_are_counted(tmp_path):
    names = [f"metric_{i:02}" for i in range(79)]
    lines = shown(filled(tmp_path, names), 80, 24)
    assert len(lines) <= 23  # one line is the cursor's
    told = sum("metric_" in word or "replay/full" in word for line in lines for word in line.split())
    assert told > 30
    assert f"and {80 - told} more, in metrics.jsonl" in "\n".join(lines)


def test_a_panel_before_any_row_and_past_the_end(tmp_path):
    log = make(tmp_path, 10, panel=False, clock=Clock())
    assert "evaluation  none yet" in shown(log, 80, 24)[4]
    log.tick(11)
    assert " 100% " in shown(log, 80, 24)[1]


@pytest.mark.parametrize(
    ("file", "term", "live"),
    [
        (Terminal(), "xterm", True), (Terminal(), "dumb", False), (io.StringIO(), "xterm", False),
        (AsciiTerminal(), "xterm", False),
    ],
)  # fmt: skip
def test_the_panel_is_for_terminals(tmp_path, monkeypatch, file, term, live):
    monkeypatch.setenv("TERM", term)
    with make(tmp_path, file=file) as log:
        assert (log.live is not None) is live


def test_ticks_draw_four_times_a_second_and_a_slow_terminal_less_often(tmp_path, monkeypatch):
    clock, drawn, slow = Clock(), [], 0.0

    def refresh(self):
        drawn.append(clock.now)
        clock.now += slow

    with make(tmp_path, panel=True, clock=clock) as log:
        monkeypatch.setattr(Live, "refresh", refresh)
        for step in range(101):  # from 100 s to 101 s
            log.tick(step)
            clock.now += 0.01
        assert drawn == pytest.approx([100.0, 100.25, 100.5, 100.75, 101.0], abs=0.011)
        assert log.pace.rate == pytest.approx(100.0)
        slow = 0.1
        clock.now = 200.0
        log.tick(101)
        drawn.clear()
        clock.now = 204.9
        log.tick(102)
        assert drawn == []  # drawing took 0.1 s: not again before 5 s
        clock.now = 205.0
        log.tick(103)
        assert drawn == [205.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_given_back_whatever_happens(tmp_path, error, calls, monkeypatch):
    def fails():
        raise OSError("no network")

    monkeypatch.setattr(sys.modules["trackio"], "finish", fails)
    file, stdout = Terminal(), sys.stdout

    def training():
        with make(tmp_path, sinks=("wandb", "trackio"), file=file) as log:
            assert (file.getvalue().count(HIDE), file.getvalue().count(SHOW)) == (1, 0)
            print("from an environment")
            log.note("a note [not markup]")
            log.row(7, {"train/loss": 1.0})
            log.tick(8)
            logs.append(log)
            raise error

    logs: list[Log] = []
    with pytest.raises(error):
        training()
    told = file.getvalue()
    assert told.rindex(SHOW) > told.rindex(HIDE)
    assert sys.stdout is stdout
    for text in ("from an environment", "a note [not markup]", "8/100", "sinks: trackio did not close (no network)"):
        assert text in told
    assert calls[-1] == ("finish",)  # the other sink is closed all the same
    assert logs[0].rows.file.closed
    logs[0].close()
    assert file.getvalue() == told
