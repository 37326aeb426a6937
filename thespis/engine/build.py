"""Programs compiled in a process of their own: a run neither waits for torch's compiler nor holds it in memory.

    python -P thespis/engine/build.py FOLDER [doubt] < job.json

A job is {"source": the program, "inputs": [[shape, strides, dtype], ...], "threads", "processes": torch.distributed's}.
FOLDER/program.so is what it becomes. Programs are kept from run to run, in ~/.cache/thespis/programs. With `doubt` the C++
compiler is first asked which vector instructions it knows: ten seconds, spent only where all of the machine's have failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

import torch
from torch import Tensor, distributed

Runner = Callable[[list[Tensor]], Sequence[Tensor]]
KEPT = 100
"""programs on disk, of a few MB each; those not used for longest are deleted"""


def begin(source: str, inputs: Sequence[Tensor], threads: int) -> tuple[Callable[[], bool], Callable[[], Runner]]:
    """Has `source` compiled for inputs like these and so many threads, in another process unless it has been before.

    Returns what says whether that is over, and what waits for it and then loads it: raises RuntimeError, with what the compiler
    said last.
    """
    job = order(source, inputs, threads)
    if any(x.device.type != "cpu" for x in inputs):
        return lambda: True, lambda: here(job, inputs)
    folder = place(job)
    if library(folder).exists():
        try:
            known = load(folder, job["processes"])
            return lambda: True, lambda: known
        except RuntimeError:  # damaged
            shutil.rmtree(folder, ignore_errors=True)
    said = TemporaryFile("w+")  # noqa: SIM115  no pipe: nobody reads while the run goes on
    with TemporaryFile("w+") as orders:
        json.dump(job, orders)
        orders.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-P", __file__, str(folder)],
            stdin=orders, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,  # Ctrl-C is not for it
        )  # fmt: skip

    def wait() -> Runner:
        if process.wait():
            said.seek(0)
            raise RuntimeError((said.read().strip() or f"it ended with {process.returncode}").splitlines()[-1])
        return load(folder, job["processes"])

    weakref.finalize(wait, _stop, process)  # who no longer waits has no use for it
    return lambda: process.poll() is not None, wait


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)  # the C++ compiler too


def order(source: str, inputs: Sequence[Tensor], threads: int) -> dict[str, Any]:
    """A job."""
    described = [[list(x.shape), list(x.stride()), str(x.dtype).removeprefix("torch.")] for x in inputs]
    team = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    return {"source": source, "inputs": described, "threads": threads, "processes": team}


def place(job: dict[str, Any]) -> Path:
    """Where on this machine a job's result is kept, whether it has been done or not."""
    machine = [torch.__version__, sys.platform, *map(str, sorted(torch.cpu.get_capabilities().items()))]
    name = hashlib.sha256("\n".join([json.dumps(job), *machine]).encode()).hexdigest()[:32]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thespis" / "programs" / name


def library(folder: Path) -> Path:
    return folder / "program.so"


def load(folder: Path, processes: int = 1) -> Runner:
    """A program that so many processes run together. Raises RuntimeError where what lies there is damaged."""
    os.utime(folder)
    path = library(folder)
    if processes > 1:
        return unlocked(path)
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1).run  # as torch._inductor does, without importing it


def unlocked(path: Path) -> Runner:
    """Runs a program without Python's lock, 0.05 ms slower. RuntimeError as from `load`.

    One that waits for other processes must: the threads that speak with them take that lock, while they hold one that the program
    needs, to drop tensors that Python has seen.
    """
    if path.with_suffix(".json").exists():
        raise RuntimeError("it has operations that torch's C interface lacks")
    try:
        code, model, sizes = ctypes.CDLL(str(path)), ctypes.c_void_p(), [ctypes.c_size_t(), ctypes.c_size_t()]
    except OSError as error:
        raise RuntimeError(str(error)) from error
    aoti, capsule, pointer = torch._C._aoti, ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
    capsule.argtypes, capsule.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

    def check(failed: int) -> None:
        if failed:
            said = ctypes.c_char_p()
            if hasattr(code, "AOTInductorGetLastError"):  # older libraries lack it
                code.AOTInductorGetLastError(ctypes.byref(said))
            raise RuntimeError((said.value or b"the program failed").decode(errors="replace"))

    check(code.AOTInductorModelContainerCreateWithDevice(ctypes.byref(model), ctypes.c_size_t(1), b"cpu", None))
    check(code.AOTInductorModelContainerGetNumInputs(model, ctypes.byref(sizes[0])))
    check(code.AOTInductorModelContainerGetNumOutputs(model, ctypes.byref(sizes[1])))
    inputs, outputs = ((ctypes.c_void_p * size.value) for size in sizes)

    def run(tensors: list[Tensor]) -> Sequence[Tensor]:
        given = inputs(*(pointer(x, None) for x in aoti.unsafe_alloc_void_ptrs_from_tensors(tensors)))  # the program frees them
        out = outputs()
        check(code.AOTInductorModelContainerRun(model, given, sizes[0], out, sizes[1], None, None))
        return aoti.alloc_tensors_by_stealing_from_void_ptrs([capsule(x, None, None) for x in out])

    return run


def here(job: dict[str, Any], inputs: Sequence[Tensor]) -> Runner:
    """The same in this process, for other devices than the processor."""
    import torch._inductor.config

    with torch._inductor.config.patch(fallback_random=True):
        devices = [x.device for x in inputs]
        graph = torch._inductor.standalone_compile(_traced(job, devices), list(inputs), dynamic_shapes="from_graph")
    return lambda tensors: graph(*tensors)


def capture(code: Runner, inputs: Sequence[Tensor], given: range) -> Runner:
    """`code` as one CUDA graph. Which of `inputs` differ from call to call, `given` says; the others are read and written where
    they lie.

    `code` must have run once, so that what it does but once is done. A capture only writes kernels down: no tensor changes.
    """
    places = [x.clone() if i in given else x for i, x in enumerate(inputs)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = code(places)

    def run(tensors: list[Tensor]) -> Sequence[Tensor]:
        for i in given:
            places[i].copy_(tensors[i])
        graph.replay()
        return [x.clone() for x in out]  # the next replay writes over them

    return run


def build(job: dict[str, Any], folder: Path, trust: bool = True, **others: Any) -> None:
    """FOLDER is written aside and renamed.

    With `trust` the C++ compiler is held to know all vector instructions of this machine. `others` are torch's options.
    """
    import torch._inductor.config

    torch.set_num_threads(job["threads"])
    if job["processes"] > 1:  # the compiler asks how large the group is that its program belongs to
        from torch.testing._internal.distributed.fake_pg import FakeStore

        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=job["processes"])
    graph = _traced(job, [torch.device("cpu")] * len(job["inputs"]))
    inputs = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix="new-", dir=folder.parent))
    try:
        options = {
            "fallback_random": True,  # noise as in eager mode
            "cpp.vec_isa_ok": trust or None,
            "aot_inductor.output_path": str(library(aside)),
            "aot_inductor.enable_line_tables": False,  # two thirds of the library
            "aot_inductor.precompile_headers": False,  # of use to who compiles often
        } | others
        torch._inductor.aot_compile(graph, inputs, options=options)
        load(aside, job["processes"])
        aside.rename(folder)
    except OSError:
        if not library(folder).exists():  # another process has been quicker
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process deletes, too
        for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _traced(job: dict[str, Any], devices: Sequence[torch.device]) -> torch.fx.GraphModule:
    """The program as torch's compiler wants it, of tensors without data."""
    import torch.distributed._functional_collectives  # says what collectives do to such tensors
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad(), FakeTensorMode():
        inputs = [
            torch.empty_strided(shape, strides, dtype=getattr(torch, dtype), device=device)
            for (shape, strides, dtype), device in zip(job["inputs"], devices, strict=True)
        ]
        return make_fx(function(job["source"]))(*inputs)


def function(source: str) -> Callable[..., tuple[Tensor, ...]]:
    """A program, operation by operation."""
    names: dict[str, Any] = {"torch": torch, "inf": math.inf, "nan": math.nan}
    exec(source, names)
    return names["program"]


if __name__ == "__main__":
    os.nice(5)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # what is half-written goes
    job, trust = json.load(sys.stdin), len(sys.argv) == 2
    try:
        build(job, Path(sys.argv[1]), trust)
    except Exception:
        if not trust:
            raise
        doubting = [sys.executable, *sys.orig_argv[1:], "doubt"]  # a process anew: the compiler remembers what it was told
        sys.exit(subprocess.run(doubting, input=json.dumps(job), text=True).returncode)
