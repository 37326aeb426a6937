"""The dashboard, as a process of its own: what it shows, what it follows, where it listens and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from thespis import cli
from thespis.engine.lock import alone
from thespis.report import dashboard
from thespis.report.panels import read

from .browser import CHROMIUM, Browser

pytest.importorskip("nicegui", reason="the extra dashboard is not installed")


def write(path, algo, env="Hopper-v5", steps=(0, 100), last=2.0):
    path.mkdir(parents=True)
    run = {"env": env, "seed": 0, "steps": 200}
    (path / "config.json").write_text(json.dumps({"algo": algo, "algo_config": {}, "algo_defaults": {}, "run": run}))
    row(path, steps, last)
    return path


def row(path, steps, last):
    with (path / "metrics.jsonl").open("a") as out:
        out.writelines(json.dumps({"step": s, "eval/return_mean": last, "eval/return_std": 0.5}) + "\n" for s in steps)


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def served(tmp_path):
    """(folder of a finished and a running run, port, process)"""
    write(tmp_path / "runs" / "over", "td3", "Ant-v5", (0, 200))
    write(tmp_path / "runs" / "deep" / "on", "sac")
    port = free()
    words = [sys.executable, "-m", "thespis", "dashboard", str(tmp_path / "runs"), "--port", str(port)]
    environ = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}  # NiceGUI acts otherwise where it sees that
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stdout.readline() == f"dashboard  http://127.0.0.1:{port}  (Ctrl-C ends it)\n"
    yield tmp_path / "runs", port, process
    process.kill()
    process.communicate()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_run_is_going_on_stopped_or_finished(tmp_path):
    for name in "over", "bare", "on", "stopped":
        write(tmp_path / name, "sac", steps=(0, 200 if name == "over" else 100))
    (tmp_path / "stopped" / ".lock").touch()
    with alone(tmp_path / "on"):
        states = {r["run"]: r["state"] for r in (dashboard._row(read(p), tmp_path) for p in sorted(tmp_path.iterdir()))}
    assert states == {"over": "finished", "bare": "stopped", "on": "last row 0 s ago", "stopped": "stopped"}
    assert not (tmp_path / "bare" / ".lock").exists()  # looking leaves nothing behind
    with alone(tmp_path / "stopped"):
        pass


def test_it_answers_here_alone_and_ctrl_c_ends_it(served, capsys):
    folder, port, process = served
    until(lambda: answers(port) == 200)
    assert answers(port, "evil.example") == 400  # another name for this address
    with socket.socket() as s, pytest.raises(ConnectionRefusedError):
        s.connect(("127.0.0.2", port))  # bound to 127.0.0.1, and not to every address of the machine
    assert cli.main(["dashboard", str(folder), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"thespis: port is {port}: ")
    assert said.count("\n") == 1
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


def answers(port, host=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": host or f"127.0.0.1:{port}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:  # it does not listen yet
        return 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on the PATH")
def test_in_a_browser(served, tmp_path):
    folder, port, process = served
    with Browser(tmp_path / "profile") as browser:
        for width in (400, 1280):
            browser.open(f"http://127.0.0.1:{port}/", width)
            until(lambda: browser.value("document.querySelectorAll('svg[role=img]').length") >= 1)
            for box in ("document.documentElement", "document.querySelector('.q-table__middle')"):
                assert browser.value(f"{box}.scrollWidth - {box}.clientWidth") <= 0
        text = "document.body.innerText"
        assert browser.value(f"{text}.includes('deep/on') && {text}.includes('finished') && {text}.includes('100 of 200')")
        assert "SAC on Hopper-v5, seed 0" in browser.value(text)  # the newest
        cells = "[...document.querySelectorAll('tbody tr')].map(r => r.children[1].innerText)"
        assert browser.value(cells) == ["deep/on", "over"]
        choose = "[...document.querySelectorAll('.q-menu .q-item')].find(x => x.innerText == '%s')"
        for box, word in enumerate(("td3", "Ant-v5")):  # a filter hides the others, and gives them back
            browser.value(f"document.querySelectorAll('.q-select input')[{box}].click()")
            until(lambda word=word: browser.value(f"!!({choose % word})"))
            for left in (["over"], ["deep/on", "over"]):
                browser.value(f"{choose % word}.click()")
                until(lambda left=left: browser.value(cells) == left)
        for i in (0, 1):  # ticked one after the other, faster than pictures are drawn
            browser.value(f"document.querySelectorAll('tbody .q-checkbox')[{i}].click()")
        until(lambda: browser.value("document.querySelectorAll('.runs tr').length") == 3)  # both, below their titles
        row(folder / "deep" / "on", [150], 77.5)
        until(lambda: browser.value(f"{text}.includes('77.5') && {text}.includes('150 of 200')"))  # without a reload
        assert browser.complaints == []
        assert browser.asked
        assert [url for url in browser.asked if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))] == []
        process.send_signal(signal.SIGINT)  # with a page open
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_what_is_wrong_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    assert cli.main(["dashboard", str(tmp_path / "absent")]) == 2
    assert cli.main(["dashboard", str(tmp_path), "--port", "0"]) == 2
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert cli.main(["dashboard", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("absent is not a directory")
    assert said[1].endswith("--port is '0'; allowed: a whole number from 1 to 65535") or "port is 0; allowed" in said[1]
    assert said[2] == 'thespis: the dashboard needs nicegui: pip install "thespis[dashboard]"'
