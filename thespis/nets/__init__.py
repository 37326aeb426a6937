"""How a function is made: init() -> params, apply(params, x) -> y."""

from thespis.nets.functions import Build, Net, ensemble, mlp, module, own

__all__ = ["Build", "Net", "ensemble", "mlp", "module", "own"]
