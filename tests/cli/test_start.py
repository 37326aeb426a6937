"""What a command needs before it can answer: neither torch nor matplotlib, where it only has to read what was asked."""

import dataclasses
import json
import subprocess
import sys
import typing

import pytest

import thespis
from thespis import algorithms, api, config
from thespis.algorithms import algorithm

HEAVY = ("torch", "matplotlib", "safetensors", "tensorboard", "thespis.core")


def imports(code):
    """Those of HEAVY that a fresh process has imported after `code`."""
    code += f"\nimport sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return process.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["list"], ["list", "--json"], ["trian"], ["train"], ["train", "sac", "--help"], ["train", "droq", "--lern", "1"],
     ["train", "sac", "--lr", "0"], ["sweep", "td3", "--help"], ["resume", "x", "--stps", "3"], ["evaluate", "--help"],
     ["compare", "--help"], ["push", "--help"], ["study"], ["study", "--help"], ["study", "nothing"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_a_wrong_command_import_nothing_heavy(argv):
    code = f"from thespis import cli\ntry:\n    cli.main({argv!r})\nexcept SystemExit:\n    pass"
    assert imports(code) == "[]"


def test_no_algorithm_needs_torch_to_say_what_its_options_are():
    """The Config and PRESETS of a file in thespis/algos are made of thespis.config, dataclasses and typing alone."""
    code = (
        "import sys, thespis\nfor x in thespis.algorithms().values():\n    x.declared\n"
        "    assert 'torch' not in sys.modules, f'{x.file.name}: its Config or PRESETS imports torch'"
    )
    assert imports(code) == "[]"


def test_the_package_is_light_until_it_is_used_and_a_run_starts_without_pictures(tmp_path):
    assert imports("import thespis, gymnasium\ngymnasium.spec('thespis/MultiGoal-v0')") == "[]"
    stop = "loop.train = lambda *a: sys.exit(0)"
    train = f"thespis.train('sac', 'Pendulum-v1', out={str(tmp_path / 'run')!r}, sinks=())"
    code = f"import sys, thespis\nfrom thespis.engine import loop\n{stop}\ntry:\n    {train}\nexcept SystemExit:\n    pass"
    assert "matplotlib" not in imports(code)


def test_what_the_text_of_a_file_says_is_what_its_module_has():
    for algo in thespis.algorithms().values():
        said, real = algo.declared, algo.config
        assert type(said) is not type(real)
        assert dataclasses.asdict(said) == dataclasses.asdict(real)
        hints = [typing.get_type_hints(type(x), include_extras=True) for x in (said, real)]
        assert [*map(config.words, hints[0].values())] == [*map(config.words, hints[1].values())]
        assert api.header(algo.module.__doc__)["Paper"]


def test_a_config_that_needs_more_of_its_file_gets_it(tmp_path):
    """Constants and functions above it; and, where that cannot work, the whole file."""
    text, file = api.algorithm("sac").file.read_text(), tmp_path / "mine.py"
    more = "RATE = 1e-3\nTWICE = 2 * RATE\n\n\ndef width(n=16):\n    return (n, n)\n\n\n@dataclass(frozen=True)\nclass Config"
    text = text.replace("@dataclass(frozen=True)\nclass Config", more)
    file.write_text(text.replace("lr: Rate = 3e-4", "lr: Rate = TWICE").replace("] = (256, 256)", "] = width()"))
    found = algorithm(file)
    assert (found.declared.lr, found.declared.hidden) == (2e-3, (16, 16))
    assert "module" not in vars(found)  # which is not run yet
    assert found.config.hidden == (16, 16)
    file.write_text(text.replace("lr: Rate = 3e-4", "lr: Rate = globals()['LATER']") + "\nLATER = 1.0\n")
    with pytest.raises(thespis.Fault, match="raised KeyError"):
        algorithm(file).declared  # noqa: B018


def test_a_function_keeps_its_name_when_a_module_has_the_same():
    code = "import thespis.report.style, thespis.sweep.axes, thespis.export, thespis, json\n"
    code += "print(json.dumps([callable(getattr(thespis, n)) for n in thespis.__all__]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [True] * len(thespis.__all__)
    assert algorithms is thespis.algorithms is api.algorithms
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        thespis.trian  # noqa: B018
