"""Two processes with half a batch each take the step that one takes with all of it."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

JOINT_NOISE = -2
SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from torch import distributed
from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Spec, leaves
from thespis.engine import build
from thespis.engine.compile import Stepper

place, rank, count, compile_after = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(1)
joint, steps = 16, 4
mine = slice(rank * joint // count, (rank + 1) * joint // count)
draw = torch.Generator().manual_seed(1)
if compile_after == -2:  # each has its part of the same noise
    torch.randn_like = lambda x: torch.randn(joint, *x.shape[1:], generator=draw)[mine]
learner = sac.make(sac.Config(hidden=(8,)), Spec(Box(3), Box(2)))
torch.manual_seed(0)
stepper = Stepper(learner, learner.init(), compile_after, print)
if count > 1:
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=count)
def compiles(when):
    if rank == 1 and when == sys.argv[5]:
        raise RuntimeError("no compiler")
def begin(source, *_):
    compiles("begin")
    return lambda: True, lambda: compiles("wait") or (lambda tensors: build.function(source)(*tensors))
if len(sys.argv) > 5:
    build.begin = begin
data = torch.Generator().manual_seed(2)
torch.manual_seed(rank)
for _ in range(steps):
    x = torch.randn(joint, 13, generator=data)[mine]
    stepper.step(Batch(x[:, :3], x[:, 3:5].tanh(), x[:, 5], torch.full((len(x),), 0.99), x[:, 6:9]))
assert stepper.compile_after == (compile_after if len(sys.argv) == 5 else -1)  # or the compiler did not take it
save_file(leaves(stepper.state), f"{place}/{rank}-of-{count}.safetensors")
if count > 1:
    distributed.destroy_process_group()
"""


def train(place, count, compile_after, *more):
    """The states after four steps of SAC on a joint batch of 16, one of each process."""
    place = place / f"{count} {compile_after}"
    place.mkdir()
    code = [sys.executable, "-c", SCRIPT, str(place)]
    runs = [subprocess.Popen([*code, str(rank), str(count), str(compile_after), *more]) for rank in range(count)]
    assert [run.wait(300) for run in runs] == [0] * count
    return [load_file(place / f"{rank}-of-{count}.safetensors") for rank in range(count)]


def same(states, wanted, within=2e-6):
    assert [name for name in wanted if not states[0][name].equal(states[1][name])] == []
    for name, x in wanted.items():
        torch.testing.assert_close(states[0][name], x, rtol=within, atol=within)


def test_two_halves_are_a_whole(tmp_path):
    (whole,) = train(tmp_path, 1, JOINT_NOISE)
    same(train(tmp_path, 2, JOINT_NOISE), whole, 1e-6)
    assert whole["actor.t"] == 4
    assert whole["actor.v.w0"].abs().max() > 1e-5  # there were gradients


@pytest.mark.slow
def test_the_step_of_two_is_one_graph(tmp_path):
    same(train(tmp_path, 2, 2), train(tmp_path, 2, -1)[0])


@pytest.mark.parametrize("at", ["begin", "wait"])
def test_where_one_cannot_compile_none_does(tmp_path, at):
    """Else the trial of the one would be taken for a step of the other."""
    same(train(tmp_path, 2, 2, at), train(tmp_path, 2, -1)[0])
