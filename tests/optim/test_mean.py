"""Two processes with half a batch each take the step that one takes with all of it."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from torch import distributed
from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Spec, leaves
from thespis.engine import build
from thespis.engine.compile import Stepper

place, rank, count, cases = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4:]
torch.set_num_threads(1)
joint, steps, randn_like, begin = 16, 4, torch.randn_like, build.begin
mine = slice(rank * joint // count, (rank + 1) * joint // count)
learner = sac.make(sac.Config(hidden=(8,)), Spec(Box(3), Box(2)))
if count > 1:
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=count)

def run(case):
    draw = torch.Generator().manual_seed(1)
    if case == "joint noise":  # each has its part of the same noise
        torch.randn_like = lambda x: torch.randn(joint, *x.shape[1:], generator=draw)[mine]
    torch.manual_seed(0)
    stepper = Stepper(learner, learner.init(), {"joint noise": -1, "eager": -1}.get(case, 2), print)
    def compiles(when):
        if rank == 1 and when == case:
            raise RuntimeError("no compiler")
    def fails(source, *_):
        compiles("begin")
        return lambda: True, lambda: compiles("wait") or (lambda tensors: build.function(source)(*tensors))
    if case in ("begin", "wait"):
        build.begin = fails
    data = torch.Generator().manual_seed(2)
    torch.manual_seed(rank)
    for _ in range(steps):
        x = torch.randn(joint, 13, generator=data)[mine]
        stepper.step(Batch(x[:, :3], x[:, 3:5].tanh(), x[:, 5], torch.full((len(x),), 0.99), x[:, 6:9]))
    assert stepper.compile_after == (2 if case == "compiled" else -1), case  # or the compiler did not take it
    save_file(leaves(stepper.state), f"{place}/{case} {rank}-of-{count}.safetensors")
    torch.randn_like, build.begin = randn_like, begin

for case in cases:
    run(case)
if count > 1:
    distributed.destroy_process_group()
"""


def train(place, count, *cases):
    """For each case the states after four steps of SAC on a joint batch of 16, one of each process."""
    place.mkdir()
    code = [sys.executable, "-c", SCRIPT, str(place)]
    runs = [subprocess.Popen([*code, str(rank), str(count), *cases]) for rank in range(count)]
    assert [run.wait(300) for run in runs] == [0] * count
    return {case: [load_file(place / f"{case} {rank}-of-{count}.safetensors") for rank in range(count)] for case in cases}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Two processes that do without the compiler, or meet with one that fails, in turn."""
    return train(tmp_path_factory.mktemp("mean") / "two", 2, "joint noise", "eager", "begin", "wait")


def same(states, wanted, within=2e-6):
    assert [name for name in wanted if not states[0][name].equal(states[1][name])] == []
    for name, x in wanted.items():
        torch.testing.assert_close(states[0][name], x, rtol=within, atol=within)


def test_two_halves_are_a_whole(of_two, tmp_path):
    (whole,) = train(tmp_path / "one", 1, "joint noise")["joint noise"]
    same(of_two["joint noise"], whole, 1e-6)
    assert whole["actor.t"] == 4
    assert whole["actor.v.w0"].abs().max() > 1e-5  # there were gradients


@pytest.mark.slow
def test_the_step_of_two_is_one_graph(of_two, tmp_path):
    same(train(tmp_path / "two", 2, "compiled")["compiled"], of_two["eager"][0])


@pytest.mark.parametrize("at", ["begin", "wait"])
def test_where_one_cannot_compile_none_does(of_two, at):
    """Else the trial of the one would be taken for a step of the other."""
    same(of_two[at], of_two["eager"][0])
