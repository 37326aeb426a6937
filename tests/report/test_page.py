"""The page of a run: what is on it, what is left out, and what a browser says of it."""

import json
import math
import re
import shutil
import time

import numpy as np
import pytest

import thespis
from thespis.core import Fault
from thespis.report import page, panels, style

from .browser import CHROMIUM, Browser

CONFIG = {
    "algo": "sac",
    "algo_config": {"lr": 1e-3, "hidden": [8], "alpha": None},
    "algo_defaults": {"lr": 3e-4, "hidden": [8], "alpha": None},
    "run": {"env": "Hopper-v5", "seed": 3, "steps": 4000},
}
ROWS = [
    {"step": 0, "eval/return_mean": -5.0, "eval/return_std": 1.0, "eval/value_mean": 1.0, "eval/discounted_mean": -2.0},
    {"step": 1000, "episode/return": 3.0, "train/critic_loss": 2.0, "time/steps_per_second": 10.0, "time/seconds": 100.0},
    {"step": 2000, "eval/return_mean": 7.0, "eval/return_std": 2.0, "eval/value_mean": 4.0, "eval/discounted_mean": 6.0},
    {"step": 3000, "train/critic_loss": 1.0, "train/alpha": 0.5, "train/entropy": None, "time/seconds": 400.0},
]


def write(path, rows=ROWS, **config):
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    return path


def test_the_pace_is_that_of_the_steps_that_learn(tmp_path):
    """1,000 random steps, then one update a step, in rows of 400 steps: the row that is half of each is left out too."""
    updates = {400: 0, 800: 0, 1200: 200, 1600: 600, 2000: 1000}
    rows = [{"step": s, "time/steps_per_second": 2e5 / s, "time/updates": u} for s, u in updates.items()]
    assert lines(panels.panels([panels.read(write(tmp_path / "a", rows))]), "throughput") == {"a": ([1600, 2000], [125, 100])}
    for row in rows:
        row["time/updates"] = 0
    assert lines(panels.panels([panels.read(write(tmp_path / "b", rows))]), "throughput")["b"][0] == list(updates)


def lines(found, name):
    (panel,) = [p for p in found if p.name == name]
    return {line.name: (list(line.x), list(line.y)) for line in panel.lines}


# ----------------------------------------------------------------------------------------------------------- the panels


def test_each_panel_has_its_numbers_and_one_without_numbers_is_left_out(tmp_path):
    found = panels.panels([panels.read(write(tmp_path / "a"))])
    assert [p.name for p in found] == ["return", "clock", "value", "temperature", "critic_loss", "throughput"]
    assert lines(found, "return") == {"a": ([0, 2000], [-5, 7])}
    assert found[0].lines[0].spread == [(-6, -4), (5, 9)]
    assert found[0].dots == ([1000], [3])
    assert found[1].x == "minutes"  # 400 s: above two minutes
    assert lines(found, "clock") == {"a": ([0, pytest.approx(250 / 60)], [-5, 7])}  # 100 s at 1000, 400 s at 3000: 250 at 2000
    assert lines(found, "value") == {"critic's value": ([0, 2000], [1, 4]), "return that came": ([0, 2000], [-2, 6])}
    assert lines(found, "critic_loss") == {"a": ([1000, 3000], [2, 1])}
    assert all(p.x and p.y for p in found)


def test_several_runs_are_overlaid_and_their_bias_is_a_difference(tmp_path):
    runs = [panels.read(write(tmp_path / "a")), panels.read(write(tmp_path / "b", ROWS[:2]))]
    found = panels.panels(runs)
    assert lines(found, "value") == {"a": ([0, 2000], [3, -2]), "b": ([0], [3])}
    assert [line.colour for line in found[0].lines] == [0, 1]
    assert not found[0].dots[0]


def test_no_rows_no_panels(tmp_path):
    assert panels.panels([panels.read(write(tmp_path / "a", []))]) == []
    text = page.page([tmp_path / "a"]).read_text()
    assert "<svg" not in text
    assert "0 of 4,000" in text


def test_many_points_are_averaged():
    x, y = panels._thin(range(4000), [1.0, 3.0] * 2000)
    assert (len(x), y[0], x[0], x[-1]) == (400, 2.0, 4.5, 3994.5)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (250_000, "250k"), (-1.5e6, "−1.5M"), (0.125, "0.125"), (2e9, "2G")]
)
def test_short_numbers(value, text):
    assert style.short(value) == text


def test_ticks_are_told_apart():
    ticks = style.Short()
    assert ticks.format_ticks([9359.8, 9359.9, 9360]) == ["9.3598k", "9.3599k", "9.36k"]
    assert ticks.format_ticks([0, 2e6]) == ["0", "2M"]


@pytest.mark.parametrize("low", [-9360.02, 0.0, 1e-12])
def test_no_word_of_a_panel_is_cut_off(low):
    line = panels.Line("a", [0, 1, 2], [low, low + 0.1, low + 0.2])
    picture = panels.figure(panels.Panel("return", "Return", "environment steps", "return of an episode", [line]))
    picture.draw_without_rendering()
    (axes,) = picture.axes
    box = axes.get_tightbbox()
    assert box.x0 >= 0
    assert box.x1 <= picture.bbox.x1


# ------------------------------------------------------------------------------------------------------------- the page


def test_only_the_numbers_that_differ_are_in_the_table(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", algo_config={"lr": 3e-4, "hidden": [8], "alpha": 0.2})

    def table(*paths):
        text = page.page(paths, tmp_path / "out").read_text().partition("differ from")[2]
        return re.findall(r"<td>([^<]*)</td>", text)

    assert table(a) == ["lr", "0.0003", "0.001"]
    assert table(a, b) == ["lr", "0.0003", "0.001", "0.0003", "alpha", "none", "none", "0.2"]
    (tmp_path / "a" / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "algo_defaults"}))
    assert table(a) == []


def test_words_of_a_run_cannot_become_markup(tmp_path):
    evil = '<script>alert("$x")</script>'
    run = {"env": evil, "seed": 0, "steps": 5}
    rows = [*ROWS, {"step": 3000, f"train/{evil}": 1.0, "train/$\\frac$": 2.0}]
    text = page.page([write(tmp_path / "a", rows, run=run, algo_config={"lr": evil})]).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 3
    page.pngs([tmp_path / "a"], tmp_path)


@pytest.mark.parametrize(
    ("break_", "match"),
    [
        (lambda run: shutil.rmtree(run), "not a run directory"),
        (lambda run: (run / "config.json").unlink(), "not a run directory"),
        (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_text('{"run": 3}'), "config.json is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("3\n4\n"), "metrics.jsonl: line 1 is not a row of metrics"),
    ],
)
def test_damage_is_told_in_a_line_and_no_page_is_written(tmp_path, break_, match):
    run = write(tmp_path / "a")
    break_(run)
    with pytest.raises(Fault, match=match):
        page.page([run])
    assert not (run / "report").exists()


def test_the_keys_of_many_runs_differ(tmp_path):
    text = page.page([write(tmp_path / str(i)) for i in range(24)], tmp_path / "out").read_text()
    assert len(set(re.findall('class="key" style="([^"]*)"', text))) == 24


def test_videos_go_in_where_small_and_are_linked_where_not(tmp_path, monkeypatch):
    run = write(tmp_path / "a")
    (run / "videos").mkdir()
    (run / "videos" / "step-000000000-first.mp4").write_bytes(b"early")
    (run / "videos" / "step-000004000-last.mp4").write_bytes(b"late" * 100)
    (run / "videos" / "step-000002000-best.mp4").write_bytes(b"neither")
    monkeypatch.setattr(page, "EMBED", 100)
    sources = re.findall(r'<video[^>]* src="([^"]*)"', page.page([run]).read_text())
    assert sources == ["data:video/mp4;base64,ZWFybHk=", "../videos/step-000004000-last.mp4"]


def test_stills_stand_where_there_is_no_video_of_that_policy(tmp_path):
    run = write(tmp_path / "a")
    (run / "videos").mkdir()
    for name in ("step-000000000-first.png", "step-000004000-last.png", "step-000004000-last.mp4", "step-000003000-last.png"):
        (run / "videos" / name).write_bytes(name[-9:-4].encode())
    text = page.page([run]).read_text()
    assert re.findall(r'<img alt="([^"]*)" src="([^"]*)"', text) == [("The first policy", "data:image/png;base64,Zmlyc3Q=")]
    assert re.findall(r'<video[^>]* src="([^"]*)"', text) == ["data:video/mp4;base64,LWxhc3Q="]


def test_a_long_run_takes_seconds_and_a_small_page(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"train/m{i}_loss" for i in range(6)]
    rows = [{"step": 1000 * i, **dict(zip(names, rng.normal(size=6), strict=True)), "time/seconds": i} for i in range(5000)]
    rows += [{"step": 10_000 * i, "eval/return_mean": math.sin(i), "eval/return_std": 0.1} for i in range(500)]
    began = time.process_time()
    file = page.page([write(tmp_path / "a", rows)])
    assert time.process_time() - began < 20  # only a hang is a failure
    assert file.stat().st_size < 600_000


# -------------------------------------------------------------------------------------------------------- from the front


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    small = {"steps": 420, "warmup": 200, "hidden": (8,), "eval_episodes": 1, "log_every": 50, "eval_every": 140}
    folder = tmp_path_factory.mktemp("runs") / "done"
    return thespis.train("sac", env="Pendulum-v1", out=folder, panel=False, compile_after=-1, **small)


def test_a_run_ends_with_its_page_and_the_first_policy(done, tmp_path):
    assert sorted(p.name for p in (done.path / "report").iterdir()) == ["index.html"]
    first = thespis.load(done, "first")
    assert first.about["step"] == 0
    more = {"warmup": 30, "hidden": (8,), "eval_episodes": 1, "panel": False}
    still = thespis.train("sac", env="Pendulum-v1", steps=20, out=tmp_path / "b", **more)  # learns nothing
    kept = [(r.path / "policy" / f"{w}.safetensors").read_bytes() for r, w in [(done, "first"), (still, "last"), (done, "last")]]
    assert kept[0] == kept[1] != kept[2]


def test_a_page_that_fails_costs_nothing(done, monkeypatch, capsys):
    def fails(paths):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(page, "page", fails)
    assert thespis.resume(done, panel=False).finished
    assert "report: not drawn, as ZeroDivisionError: a bug" in capsys.readouterr().err


def test_report_writes_the_page_and_a_png_of_each_panel(done, tmp_path):
    file = thespis.report(done, out=tmp_path / "out")
    names = {p.name for p in panels.panels([panels.read(done.path)])}
    assert {"return", "clock", "value", "entropy", "temperature", "critic_loss", "throughput"} <= names
    assert {p.stem for p in file.parent.glob("*.png")} == names
    assert file.read_text().count("<svg") == len(names)
    with pytest.raises(Fault, match="no run is named"):
        thespis.report()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on the PATH")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(done, tmp_path, width):
    """Nothing is complained of, nothing is wider than the window, every picture has its size and its text can be read."""
    one, two = thespis.report(done, out=tmp_path / "one"), thespis.report(done, done, out=tmp_path / "two")
    with Browser(tmp_path / "profile") as browser:
        for file in (one, two):
            browser.open(file.as_uri(), width)
            assert browser.complaints == []
            assert browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            assert browser.value("[...document.querySelectorAll('.runs')].every(t => t.scrollWidth <= t.clientWidth)")
            sizes = "[s.clientWidth, s.clientHeight, s.querySelectorAll('text').length]"
            boxes = browser.value(f"[...document.querySelectorAll('svg')].map(s => {sizes})")
            assert len(boxes) >= 8
            assert all(w > 280 and h > 160 and texts > 4 for w, h, texts in boxes)
            boxes = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect())"
            assert browser.value(f"Math.min(...{boxes}.map(b => Math.max(b.width, b.height)))") > 9  # pixels; some stand upright
