"""Programs compiled in another process: kept, loaded, waited for, and what is said where that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thespis
from tests.contract.test_contract import compiler
from thespis.engine import build
from thespis.engine.tape import record

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler(), reason="this machine has no C++ compiler")]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "thespis" / "programs"


def test_compiled_once_then_loaded(shelf: Path) -> None:
    x, y = torch.randn(5), torch.zeros(5)
    source = record(lambda x, y: [y.add_(torch.randn_like(x) * x), x.sum()], [x, y]).source
    ready, wait = build.begin(source, [x, y], 1)
    assert not ready()
    for again in (False, True):
        if again:
            ready, wait = build.begin(source, [x, y], 1)
            assert ready()
        run = wait()
        assert ready()
        y.zero_()
        torch.manual_seed(4)
        noise, total = run([x, y])
        torch.manual_seed(4)
        torch.testing.assert_close(y, torch.randn_like(x) * x)  # where it lies, with the noise of eager mode
        torch.testing.assert_close((noise, total), (y, x.sum()))
    assert len(list(shelf.iterdir())) == 1  # nothing half-written beside it
    assert not build.begin(source, [x.double(), y], 1)[0]()  # another type
    assert not build.begin(source, [x, y], 2)[0]()  # another number of threads
    assert not build.begin(source.replace("x0", "z0"), [x, y], 1)[0]()  # another program


def test_what_is_damaged_is_compiled_anew(shelf: Path) -> None:
    x = torch.randn(3)
    source = record(lambda x: [x + 1], [x]).source
    folder = build.place(build.order(source, [x], 1))
    folder.mkdir(parents=True)
    build.library(folder).write_bytes(b"no library")
    ready, wait = build.begin(source, [x], 1)
    assert not ready()
    torch.testing.assert_close(wait()([x])[0], x + 1)


def test_a_program_without_pythons_lock(shelf: Path) -> None:
    x, y, i = torch.randn(5), torch.zeros(5), torch.tensor([3])
    source = record(lambda x, y, i: [y.add_(torch.randn_like(x) * x), x[i]], [x, y, i]).source
    folder = build.place(build.order(source, [x, y, i], 1))
    build.begin(source, [x, y, i], 1)[1]()
    run = build.unlocked(build.library(folder))
    for _ in range(3):
        y.zero_()
        torch.manual_seed(4)
        noise, picked = run([x, y, i])
        torch.manual_seed(4)
        torch.testing.assert_close(y, torch.randn_like(x) * x)
        torch.testing.assert_close((noise, picked), (y, x[i]))
    with pytest.raises(RuntimeError, match="index out of bounds"):
        run([x, y, i + 9])

    (folder / "program.json").write_text("{}")  # what torch writes beside one that calls back
    with pytest.raises(RuntimeError, match="C interface"):
        build.unlocked(build.library(folder))
    damaged = shelf / "program.so"
    damaged.write_bytes(b"no library")
    with pytest.raises(RuntimeError, match=r"program\.so"):
        build.unlocked(damaged)


def test_in_this_process_as_for_other_devices(shelf: Path) -> None:
    x, y = torch.randn(5), torch.zeros(5)
    source = record(lambda x, y: [y.add_(torch.randn_like(x) * x), x.sum()], [x, y.clone()]).source
    run = build.here(build.order(source, [x, y], 1), [x, y])
    torch.manual_seed(4)
    noise, total = run([x, y])
    torch.manual_seed(4)
    torch.testing.assert_close(y, torch.randn_like(x) * x)
    torch.testing.assert_close((noise, total), (y, x.sum()))


def test_a_cuda_graph_reads_and_writes_where_the_tensors_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that does at each replay what was done at the capture, to the same memory."""
    captured: list[Any] = []

    @contextmanager
    def graph(made: Any) -> Iterator[None]:
        before = state.clone()
        yield
        state.copy_(before)  # a capture changes nothing

    class Graph:
        def replay(self) -> None:
            places, out = captured[0]
            for old, new in zip(out, code(places), strict=True):
                old.copy_(new)

    def code(places: list[Tensor]) -> list[Tensor]:
        held, given = places
        out = [held.add_(given) * 1, given.sum()]
        if not captured:
            captured.append((places, out))
        return out

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    state, shown = torch.zeros(2), torch.full((2,), 9.0)
    run = build.capture(code, [state, shown], range(1, 2))
    assert state.tolist() == [0, 0]
    first = run([state, torch.tensor([1.0, 2.0])])
    second = run([state, torch.tensor([10.0, 20.0])])
    assert state.tolist() == [11, 22]
    assert shown.tolist() == [9, 9]  # it belongs to who gave it
    assert [x.tolist() for x in (*first, *second)] == [[1, 2], 3, [11, 22], 30]  # kept, however often it is called


def test_the_oldest_go(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "KEPT", 2)
    for i in range(3):
        (shelf / f"old-{i}").mkdir(parents=True)
        os.utime(shelf / f"old-{i}", (i, i))
    x = torch.ones(3)
    job = build.order(record(lambda x: [x + 1], [x]).source, [x], 1)
    build.build(job, build.place(job))
    assert {path.name for path in shelf.iterdir()} == {"old-2", build.place(job).name}


def test_what_the_compiler_said_last_is_told(shelf: Path) -> None:
    source = record(lambda x: [x[x > 0].sum()], [torch.ones(3)]).source  # how many there are hangs on the numbers
    with pytest.raises(RuntimeError, match=r"DynamicOutputShape|nonzero|data-dependent|unbacked"):
        build.begin(source, [torch.ones(3)], 1)[1]()
    assert not list(shelf.glob("*/program.so"))


def test_without_a_compiler_the_reason_is_told(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    source = record(lambda x: [(x + 1).tanh()], [torch.ones(3)]).source
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        build.begin(source, [torch.ones(3)], 1)[1]()
    assert not list(shelf.glob("*"))


def test_a_compiler_that_knows_less_than_the_machine(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "g++"
    old.write_text('#!/bin/sh\ncase "$*" in *-mavx512*|*-mamx*) echo too old >&2; exit 1;; esac\nexec g++ "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    x = torch.randn(100)
    source = record(lambda x: [x.exp() + 1], [x]).source
    (out,) = build.begin(source, [x], 1)[1]()([x])
    torch.testing.assert_close(out, x.exp() + 1)


@pytest.mark.parametrize("after", [0, 6])
def test_who_no_longer_waits_stops_it(shelf: Path, after: int) -> None:
    source = record(lambda x: [x + 1], [torch.ones(3)]).source
    code = f"""
import time, torch
from thespis.engine import build
wait = build.begin({source!r}, [torch.ones(3)], 1)[1]
time.sleep({after})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    until = time.monotonic() + 30
    while (left := any(str(shelf) in words for words in running())) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
    assert not list(shelf.glob("new-*"))  # nothing half-written


def running() -> list[str]:
    out = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            out.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return out


def test_a_run_that_compiles_never_imports_the_compiler(shelf: Path, tmp_path: Path) -> None:
    code = f"""
import sys, thespis
thespis.train("sac", env="Pendulum-v1", out={str(tmp_path / "run")!r}, steps=60, warmup=20, hidden=(8,), batch_size=8, sinks=(),
              eval_every=100, eval_episodes=1, compile_after=10, panel=False)
print(sorted({{"torch._inductor", "torch._dynamo", "sympy"}} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "compiling the update meanwhile" in out
    assert "does not work" not in out
    assert out.splitlines()[-1] == "[]"
    assert len(list(shelf.iterdir())) == 2  # the update, and acting


def test_stopped_and_resumed_as_one_with_compiled_code(shelf: Path, tmp_path: Path) -> None:
    options = {
        "env": "Pendulum-v1", "warmup": 20, "hidden": (8,), "batch_size": 8, "sinks": (), "eval_every": 100, "eval_episodes": 1,
        "compile_after": 20, "panel": False, "threads": 1,
    }  # fmt: skip
    whole = thespis.train("sac", out=tmp_path / "whole", steps=90, **options)
    for stop in (35, 60):  # while it is being compiled, and after
        folder = tmp_path / f"cut-{stop}"
        thespis.train("sac", out=folder, steps=stop, **options)
        cut = thespis.resume(folder, steps=90, panel=False)
        ours, theirs = ((run.path / "policy" / "last.safetensors").read_bytes() for run in (cut, whole))
        assert ours == theirs
