"""The site: it builds, every algorithm has its page and its card, every link leads somewhere, and it asks no other host."""

import dataclasses
import functools
import html
import http.server
import importlib.util
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import thespis
from thespis import api, record

from ..report.browser import CHROMIUM, Browser
from .test_docs import HOUSE, blocks, commands, said

spec = importlib.util.spec_from_file_location("pages", HOUSE / "tools/pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)

NAMES = list(thespis.algorithms())
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    pages.build(out)
    return out


@pytest.fixture(scope="module")
def address(site):
    """The site on a port of this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# ------------------------------------------------------------------------------------------------------------- the pages


@each
def test_an_algorithm_has_its_page(name, site):
    algo, text = thespis.algorithms()[name], (site / f"papers/{name}.html").read_text()
    assert re.findall(r"<h1[^>]*>(\w+)", text) == [name]
    for number in re.findall(r"arXiv:(\d{4}\.\d{5})", algo.paper):
        assert f'href="https://arxiv.org/abs/{number}"' in text
    for field in dataclasses.fields(algo.config):
        assert f"<code>--{field.name.replace('_', '-')}</code>" in text, field.name
    shown = html.unescape(text)
    for _, _, allowed, words in pages.fields(algo):
        assert f"{words}; {allowed}" in shown
    losses = re.findall(r"def (\w+_loss)\(", Path(algo.module.__file__).read_text())
    assert losses or name == "map_elites"  # it has none
    for loss in losses:  # its equation, drawn, and then its lines
        formula = "<div class=.formula.>.*?<math .*?" if loss in pages.EQUATIONS.get(pages.file(algo), {}) else ""
        assert re.search(
            rf"<strong>{loss}</strong>[^\n]*lines \d+ to \d+:</p>\s*{formula}<div class=.language-python", text, re.S
        ), loss
    for part in ("Departures", "Assumed"):
        first = api.header(algo.module.__doc__).get(part, "").split(";")[0].split()[1:4]
        assert " ".join(first).replace("'", "&#39;") in text.replace("'", "&#39;"), part


def test_the_lines_shown_are_those_of_the_file():
    for algo in thespis.algorithms().values():
        lines = Path(algo.module.__file__).read_text().splitlines()
        for name, line, source in pages.functions(algo):
            assert f"def {name}(" in lines[line - 1]
            assert [s.strip() for s in source.splitlines()] == [s.strip() for s in lines[line - 1 : line + source.count("\n")]]


def test_each_equation_is_of_a_function_that_there_is():
    for name, given in pages.EQUATIONS.items():
        assert set(given) <= {f for f, _, _ in pages.functions(pages.ALGOS[name])}, name


@each
def test_the_command_of_a_page_runs(name, tmp_path, monkeypatch):
    first = blocks(pages.page(pages.ALGOS[name], pages.rows()))[0]
    (args,) = commands(first[1])
    assert (first[0], args[:2]) == ("sh", ["train", name])
    fields = {f.name for f in dataclasses.fields(pages.ALGOS[name].config)}
    small = {"warmup": "20", "rollout": "20", "updates_per_step": "1", "hidden": "8", "critic_hidden": "8", "batch_size": "8"}
    small |= {"cells": "9"}
    small = {k: v for k, v in small.items() if k in fields} | {"steps": "40", "eval_episodes": "1", "compile_after": "-1"}
    if writes := pages.ALGOS[name].family == "language":
        small = {"steps": "16", "model": "tiny:dim=16,layers=1", "warm_start": "64", "eval_episodes": "2"}
    monkeypatch.chdir(tmp_path)
    if "steps.npz" in args:
        columns = {"observations": np.zeros((20, 2)), "actions": np.linspace(-1, 1, 20)[:, None], "rewards": np.zeros(20)}
        np.savez("steps.npz", **columns, terminals=np.arange(20) % 5 == 4)
    if "pairs.jsonl" in args:
        Path("pairs.jsonl").write_text(json.dumps({"prompt": "1+1=", "chosen": "2", "rejected": "3"}))
    if "steps.jsonl" in args:
        Path("steps.jsonl").write_text(json.dumps({"prompt": "1+1=", "answer": "2", "advantage": 0.5, "value": [0.5, -1]}))
    if "log.npz" in args:
        record.log("thespis/ShortVideo-v0", "log.npz", 40)
    code, out = said([*args, *(word for k, v in small.items() for word in (f"--{k.replace('_', '-')}", v))])
    assert code == 0, out
    about = json.loads(Path(f"runs/{name}/config.json").read_text()) if writes else thespis.load(f"runs/{name}").about
    assert about["algo"] == name


def test_what_was_measured_stands_on_the_page_with_its_source(site):
    shown = 0
    for file in sorted((HOUSE / "bench/results").glob("*.json")):
        row = next(r for r in pages.rows() if r.name == file.stem)
        if not row.subject:
            continue
        found, text = json.loads(file.read_text()), (site / f"papers/{row.subject}.html").read_text()
        assert found["command"] in text
        assert str(found["commit"]) in text
        assert f"../bench/results/{row.name}.json" in text
        assert not file.with_suffix(".png").exists() or f"../bench/results/{row.name}.png" in text
        for curve in found.get("curves", {}).values():
            if "mean" in curve:
                shown += 1
                assert f"<td>{curve['mean']:,.4g}</td>" in text
    assert shown > 10


def test_the_tree_hangs_each_algorithm_under_its_parent(site):
    text = (site / "papers/tree.html").read_text().partition('class="tree"')[2].partition("</div>")[0]
    above, stack = {}, []
    for tag, name in re.findall(r"<(/?ul|a href=\"(?:\w+)\.html\")>(\w*)", text):
        if tag == "ul":
            stack.append(None)
        elif tag == "/ul":
            stack.pop()
        else:
            stack[-1] = name
            above[name] = stack[-2] if len(stack) > 1 else None
    assert set(above) == set(NAMES)
    known = {"sac": "ddpg", "td3": "ddpg", "redq": "sac", "droq": "redq", "mdpo": "sac_v1", "pmoe_ppo": "ppo", "ddpg": None}
    assert {k: above[k] for k in known} == known


# ------------------------------------------------------------------------------------------------------------- the links


def test_a_broken_link_and_another_host_are_told(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="b.html#there"><a href="https://example.org/x"><img src="gone.png">'
        '<script src="https://example.org/x.js"></script><link rel="stylesheet" href="//example.org/x.css">'
    )
    (tmp_path / "b.html").write_text("<p>")
    assert pages.check(tmp_path) == [
        "a.html: //example.org/x.css is loaded from another host",
        "a.html: b.html#there has no such anchor",
        "a.html: gone.png does not exist",
        "a.html: https://example.org/x.js is loaded from another host",
    ]


def test_a_page_that_links_to_nothing_stops_the_build_and_leaves_the_site_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "tree", lambda: "# The family tree\n\n[nowhere](nowhere.md)\n")
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("old")
    with pytest.raises(SystemExit, match="does not exist"):
        pages.build(out)
    assert (out / "index.html").read_text() == "old"


# ------------------------------------------------------------------------------------------------------------ in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_nothing_is_cut_off_missing_or_asked_elsewhere(address, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        for page in (
            "index",
            "docs/start",
            "docs/house",
            "docs/sac",
            "papers/index",
            "papers/tree",
            "papers/sac",
            "papers/dsac_t",
        ):
            for width in (1280, 400):
                browser.open(f"{address}/{page}.html", width)
                assert browser.value("document.documentElement.scrollWidth <= innerWidth"), (page, width)
                assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), page
                assert browser.complaints == [], page
                assert [a for a in browser.asked if not a.startswith((address, "data:", "blob:"))] == [], page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_search_box_of_the_gallery_hides_and_shows(address, tmp_path):
    def found(words):
        return browser.value(
            f"{{const box = document.querySelector('#gallery-search'); box.value = {json.dumps(words)};"
            "box.dispatchEvent(new Event('input'));"
            "[...document.querySelectorAll('.card')].filter(c => c.offsetHeight > 0).map(c => c.getAttribute('href'))}"
        )

    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{address}/papers/index.html", 1280)
        assert found("") == [f"{name}.html" for name in NAMES]
        assert found("discrete  SAMPLED") == ["hybrid_sac.html", "sac_discrete.html"]
        assert found("Trust Region natural gradient") == ["trpo.html"]
        assert not browser.value("document.querySelector('#gallery-none').offsetHeight")
        assert found("zzz") == []
        assert browser.value("document.querySelector('#gallery-none').offsetHeight")
        assert len(found("")) == len(NAMES)
