"""The pages that tools/reference.py makes from the code: they are up to date, and nothing is missing in them."""

import dataclasses
import functools
import importlib.util
import inspect
import re
from dataclasses import dataclass

import pytest

import thespis
from thespis.engine.run import Run

from .test_docs import HOUSE

spec = importlib.util.spec_from_file_location("reference", HOUSE / "tools/reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
reference.PAGES |= {name: functools.cache(page) for name, page in reference.PAGES.items()}  # seconds each


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_made_page_is_up_to_date(name):
    assert (HOUSE / "docs" / name).read_text() == reference.PAGES[name](), f"docs/{name}: run 'make fix'"


def test_every_option_has_one_row_with_its_default():
    rows = re.findall(r"^\| `--([\w-]+)` \| ([^|]*) \| [^|]+ \| [^|]{10,} \|$", reference.options(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(f.name.replace("_", "-") for f in dataclasses.fields(Run))
    known = {"steps": "1,000,000", "device": "cpu", "offline": "off", "env": "none", "compile-after": "1000"}
    assert {name: default for name, default in rows if name in known} == known


def test_a_new_option_comes_under_more(monkeypatch):
    monkeypatch.setitem(reference.GROUPS, "Evaluation", "eval_every")
    assert "| `--eval-steps` |" in reference.options().partition("## More\n")[2]


def test_every_name_has_an_entry_with_all_its_parameters():
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", reference.api(), re.MULTILINE | re.DOTALL))
    assert sorted(entries) == sorted(thespis.__all__)
    for name, text in entries.items():
        assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) >= 8, f"{name}: no words"
        thing = getattr(thespis, name)
        for parameter in inspect.signature(thing).parameters if inspect.isfunction(thing) else ():
            assert re.search(rf"\b{parameter}\b", text), (name, parameter)


@dataclass
class Small:
    a: int = 1
    """first words,
    on two lines"""
    b: int = 2

    def act(self, obs: "list[float]", *, explore: bool = False, say: object = print) -> int:
        """What it does."""


def test_the_words_under_a_field_and_a_signature():
    assert reference.words_of_fields(Small) == {"a": "first words, on two lines", "b": ""}
    assert reference.signature("Small.act", Small.act) == (
        "```text\nSmall.act(obs: list[float], *, explore: bool = False, say: object = print) -> int\n```"
    )
    assert list(reference.entry("Small", Small))[2] == "- `a: int`: first words, on two lines\n- `b: int`"


def test_a_stale_page_is_told_and_then_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "docs/api.md" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_what_works_is_as_each_paper_has_it():
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in reference.PAGES["what-works.md"]().splitlines()
        if line[:2] == "| "
    ]
    heads, table = rows[0], {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert sorted(table) == sorted(
        name for name, a in thespis.algorithms().items() if a.file.stem == name and a.family != "language"
    )
    assert {name: row["data"] for name, row in table.items() if name in ("ppo", "sac", "iql")} == {
        "ppo": "", "sac": "beside or alone", "iql": "alone",
    }  # fmt: skip
    yes = {name: {h for h in heads if row[h] == "yes"} for name, row in table.items()}
    assert yes["nora"] >= {"a state"}
    assert yes["td3"] == {"vectors", "goals", "priority", "collectors"}
    assert yes["sac_discrete"] == {"a choice", "a state", "masks", "goals", "priority", "collectors"}
    assert yes["ppo"] == {"vectors", "without bounds", "a choice", "several choices", "both", "a state", "masks"}
    assert "images" in yes["drq_v2"]
    assert "memory" in yes["recurrent_sac"]
    assert "memory" in yes["recurrent_ppo"]
