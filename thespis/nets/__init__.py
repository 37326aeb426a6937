"""How a function is made: init() -> params, apply(params, x) -> y."""

from thespis.nets.blocks import BatchNet, bottleneck, copies, orthogonal, simba
from thespis.nets.convolutions import Measured, convolutions, image, unmeasured
from thespis.nets.flows import Flow, More, Timed, condition, flow, timed
from thespis.nets.functions import Build, Net, custom, ensemble, mlp, module
from thespis.nets.normed import layers, normed
from thespis.nets.parts import joined, part
from thespis.nets.pixels import Pixels, channels_first, pixels, shifts, trunk
from thespis.nets.policies import Dist, Policy, actor_critic, bounded, outputs, policy
from thespis.nets.recurrent import Cell, Recurrent, gru, unroller
from thespis.nets.renormed import renormed
from thespis.nets.soft import attention, inverse, linear_attention, soft_attention

__all__ = [
    "BatchNet", "Build", "Cell", "Dist", "Flow", "Measured", "More", "Net", "Pixels", "Policy", "Recurrent", "Timed",
    "actor_critic", "attention", "bottleneck", "bounded", "channels_first", "condition", "convolutions", "copies", "custom",
    "ensemble", "flow", "gru", "image", "inverse", "joined", "layers", "linear_attention", "mlp", "module", "normed",
    "orthogonal", "outputs", "part", "pixels", "policy", "renormed", "shifts", "simba", "soft_attention", "timed", "trunk",
    "unmeasured", "unroller",
]  # fmt: skip
