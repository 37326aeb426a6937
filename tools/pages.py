"""The documentation site: README.md and docs/ as they stand, and of each algorithm a page and a card, from its own file.

python tools/pages.py [OUT]

The Markdown is laid out in a temporary folder as it lies in the repository, so that its links hold; papers/ is made. Zensical
makes HTML of it (docs/zensical.toml), and `check` follows every link of what came out.
"""

import ast
import html
import inspect
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import typing
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from latex2mathml.converter import convert

from thespis import api, config

HOUSE = Path(__file__).parents[1]
RESULTS, ROWS = HOUSE / "bench/results", HOUSE / "bench/rows"
ALGOS = api.algorithms()
WIDE = "---\nhide: [toc]\n---\n\n"
EQUATIONS: dict[str, dict[str, str]] = tomllib.loads((HOUSE / "docs/equations.toml").read_text())
"""{"sac": {"critic_loss": LaTeX, a formula a line}}: what the function of that name in that file computes"""


class Row(NamedTuple):
    """Something that was measured, or is yet to be: a file in bench/rows, in bench/results, or both of one name."""

    name: str
    row: dict[str, Any]
    found: dict[str, Any]
    """empty: not measured yet"""

    @property
    def algos(self) -> list[str]:
        return [c["algo"] for c in self.row.get("curves", {}).values() if "algo" in c]

    @property
    def subject(self) -> str:
        """The algorithm whose page shows it: of the same name, or that of the first curve."""
        return next(iter([self.name] if self.name in ALGOS else self.algos), "")

    @property
    def title(self) -> str:
        return self.found.get("what") or self.row.get("what") or self.name


def rows() -> list[Row]:
    names = sorted({p.stem for p in ROWS.glob("*.toml")} | {p.stem for p in RESULTS.glob("*.json")})
    read = {n: tomllib.loads(p.read_text()) if (p := ROWS / f"{n}.toml").is_file() else {} for n in names}
    found = {n: json.loads(p.read_text()) if (p := RESULTS / f"{n}.json").is_file() else {} for n in names}
    return [Row(n, read[n], found[n]) for n in names]


# ------------------------------------------------------------------------------------------------------ what a file says


def file(algo: api.Algorithm) -> str:
    """The stem of its file: a preset's is that of the algorithm it sets."""
    return algo.module.__name__.rpartition(".")[2]


def path(algo: api.Algorithm) -> str:
    return Path(inspect.getfile(algo.module)).relative_to(HOUSE).as_posix()


def parent(algo: api.Algorithm) -> tuple[str, str]:
    """(what it comes from, its header's words): of a preset its file's algorithm, unless that itself comes from the preset."""
    said = api.header(algo.module.__doc__)["Parent"]
    name = re.split(r",| \(| with | whose | which ", said)[0]
    name = name.lower() if name.lower() in ALGOS else name
    if algo.name == file(algo):
        return name, said
    return (file(algo), algo.summary) if name != algo.name else ("", "")


def fields(algo: api.Algorithm) -> Iterator[tuple[str, Any, str, str]]:
    """(name, default, what is allowed, what it is and where that stands) of each field of Config."""
    (tree,) = ast.parse(inspect.getsource(algo.module.Config)).body
    assert isinstance(tree, ast.ClassDef)
    hints = typing.get_type_hints(algo.module.Config, include_extras=True)
    for field, words in itertools.pairwise(tree.body):
        match field, words:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, getattr(algo.config, name), config.words(hints[name]), " ".join(text.split())


def functions(algo: api.Algorithm) -> Iterator[tuple[str, int, str]]:
    """(name, first line, source) of the functions that the maths is in: those of the file and of `make`, but for init and act."""
    source = inspect.getsource(algo.module)
    for node in ast.parse(source).body:
        inner = node.body if isinstance(node, ast.FunctionDef) and node.name == "make" else [node]
        for f in inner:
            if isinstance(f, ast.FunctionDef) and f.name not in ("init", "act"):
                lines = source.splitlines()[f.lineno - 1 : f.end_lineno]
                yield f.name, f.lineno, inspect.cleandoc("\n" + "\n".join(lines))


def section(algo: api.Algorithm) -> tuple[str, str]:
    """(what it is, what was measured): the section whose heading names it of docs/family.md or of the pages below; links as from
    papers/."""
    pages = ((HOUSE / f"docs/{name}.md").read_text() for name in ("family", "flow", "supervised", "diversity"))
    for part in (part for text in pages for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]):
        heading, _, body = part.partition("\n")
        if {algo.name, file(algo)} & set(re.findall(r"\w+", heading)):
            body = re.sub(r"\]\((?=[\w-]+\.)", "](../docs/", body.replace("](#", "](family.md#"))
            measured = re.search(r"^(!\[|Measured ).*", body, re.MULTILINE | re.DOTALL)
            words = measured[0] if measured else ""
            return body.removesuffix(words).strip(), words.strip()
    return "", ""


# --------------------------------------------------------------------------------------------------------------- a page


def page(algo: api.Algorithm, measured: list[Row]) -> str:
    head, (what, told), own = api.header(algo.module.__doc__), section(algo), subject_of(algo, measured)
    beside = [r for r in measured if r.found and r not in own and algo.name in r.algos]
    waiting = [r for r in measured if not r.found and (r in own or algo.name in r.algos)]
    worlds = {
        "discrete": "CartPole-v1",
        "diversity": "thespis/Omni-v0",
        "tabular": "thespis/RiverSwim-v0",
        "supervised": "thespis/Digits-v0",
        "flow": "thespis/Gaussians-v0",
        "constrained": "thespis/ShortVideo-v0 --data log.npz",
        "language": "thespis/Chains-v0",
        "epo": "thespis/KeyDoor-v0",
        "archer": "thespis/Twenty-v0",
        "filtered_bc": "thespis/Twenty-v0",
        "vl_dac": "thespis/MiniGrid-v0",
        "iq_language": "thespis/Derivations-v0",
        "coderl": "thespis/Programs-v0",
        "plr": "thespis/Caves-v0",
        "dred": "thespis/Caves-v0",
        "mamql": "thespis/MarkovGame-v0 --offline",
        "marl_dse": "thespis/DRAM-v0",
        "gmorl": "thespis/EdgeComputing-v0",
        "tbsac": "thespis/BeamOrbit-v0",
        "diayn": "thespis/Tabletop-v0",
        "slim": "thespis/Tabletop-v0",
    }
    default = worlds.get(file(algo)) or worlds.get(algo.family, "Pendulum-v1")
    world = default if "--data" in default else next((r.found["env"] for r in own if "env" in r.found), default)
    source = (
        "--data steps.npz"
        if algo.family == "offline"
        else "--data pairs.jsonl"
        if file(algo) in ("dpo", "text_reward_model")
        else "--data steps.jsonl"
        if file(algo) == "direct_advantage"
        else f"--env {world}"
    )
    by_line = f", and [line by line](../docs/{algo.name}.md)" if (HOUSE / f"docs/{algo.name}.md").is_file() else ""
    parts = [
        WIDE + f"# {algo.name}",
        f"**{html.escape(algo.summary, quote=False)}.**",
        f"{linked(algo.paper)}. [The whole file](../{path(algo)}){by_line}.",
        f"```sh\nthespis train {algo.name} {source} --out runs/{algo.name}\n```",
        what,
        descent(algo),
        "## The equations, and the lines that hold them",
        f"From `{path(algo)}`. A bar is a slow copy, a prime the next step, *d* the discount, 0 after the end.",
        *equations(algo),
        "## Config",
        "What it sets otherwise than its file does is bold." if algo.name != file(algo) else "",
        table(algo),
        "## What was measured",
        told,
        *(result(r, told) for r in own if r.found),
        "" if told or any(r.found for r in own) else "Nothing yet: tests hold it to its equations, no curve has been run.",
        listed(
            "Yet to be run: ",
            (f"`python bench/{'language' if 'arms' in r.row else 'learning'}.py run {r.name}`" for r in waiting),
        ),
        listed("Measured beside others: ", (f"[{r.title}]({r.subject}.md)" for r in beside)),
        "## Departures from the paper",
        sentences(head.get("Departures", "None known")),
        *(["## What was assumed", sentences(head["Assumed"])] if "Assumed" in head else []),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def subject_of(algo: api.Algorithm, measured: list[Row]) -> list[Row]:
    """The rows that are about its file, the one of its own name first."""
    own = [r for r in measured if r.subject in ALGOS and file(ALGOS[r.subject]) == file(algo)]
    return sorted(own, key=lambda r: r.name != algo.name)


def listed(words: str, things: Iterable[str]) -> str:
    return words + ", ".join(things) + "." if (things := list(things)) else ""


def linked(words: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", words)


def sentences(words: str) -> str:
    """Points that a header divides by semicolons, as a list."""
    points = [p.strip() for p in re.split(r";\s(?![^(]*\))", words)]
    return linked("\n".join(f"- {p[0].upper() + p[1:] if p[:2].isalpha() else p}." for p in points))  # t_k stays


def descent(algo: api.Algorithm) -> str:
    name, said = parent(algo)
    up = "A preset of " if algo.name != file(algo) else "Its parent is "
    up += f"[{name}]({name}.md){said[len(name) :]}. " if name in ALGOS else linked(f"{said}. ")
    down = (f"[{a.name}]({a.name}.md)" for a in ALGOS.values() if parent(a)[0] == algo.name)
    return (up if name else "") + listed("From it come ", down) + " [The family tree](tree.md)."


def equations(algo: api.Algorithm) -> Iterator[str]:
    """Each function that holds equations: them, and then its lines; helpers between such functions stand together."""
    for holding, group in itertools.groupby(functions(algo), lambda f: holds(algo, f)):
        if not holding:
            yield fenced("\n\n".join(source for _, _, source in group))
            continue
        for name, line, source in group:
            where = f" ({words})" if (words := comment(source)) else ""
            yield f"**{name}**{where}, lines {line} to {line + len(source.splitlines()) - 1}:"
            yield from (f"$${formula}$$" for formula in EQUATIONS.get(file(algo), {}).get(name, "").strip().splitlines())
            yield fenced(source)


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


def comment(source: str) -> str:
    return source.partition("\n")[0].partition("  # ")[2]


def holds(algo: api.Algorithm, function: tuple[str, int, str]) -> bool:
    name = function[0]
    return name == "update" or name.endswith("_loss") or name in EQUATIONS.get(file(algo), {})


def table(algo: api.Algorithm) -> str:
    """Every field of Config as an option, with its default; those that a preset sets are bold."""
    lines = ["| option | default | what it is |", "|---|---|---|"]
    plain = algo.module.Config()
    for name, default, allowed, words in fields(algo):
        values = default if isinstance(default, tuple) else (default,)
        shown = " ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)
        shown = f"`{shown}`" if default == getattr(plain, name) else f"**`{shown}`**"
        lines.append(f"| `--{name.replace('_', '-')}` | {shown} | " + f"{words}; {allowed}".replace("|", "&#124;") + " |")
    return '<div class="config" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def result(row: Row, told: str) -> str:
    """A result: its picture unless the words have shown it, its numbers, and where they come from."""
    picture, found = f"../bench/results/{row.name}.png", row.found
    lines = [f"### {row.title}", ""] if "what" in found else []
    lines += [f"![{row.title}]({picture})", ""] if (RESULTS / f"{row.name}.png").is_file() and picture not in told else []
    if numbers := list(means(found.get("curves", {}))):
        lines += ["| curve | seeds | mean | 95% interval | standard deviation |", "|---|---|---|---|---|"]
        for name, many, c in numbers:
            low, high = c["interval95"]
            lines.append(f"| {name} | {many or ''} | {c['mean']:,.4g} | {low:,.4g} to {high:,.4g} | {c['std']:,.3g} |")
    seeds = f", seeds {', '.join(map(str, found['seeds']))}" if "seeds" in found else ""
    steps = f" {found['steps']:,} steps." if isinstance(found.get("steps"), int) else ""
    lines += [
        "",
        f"`{found['command']}`, commit {found['commit']}{seeds}.{steps} [All numbers](../bench/results/{row.name}.json).",
    ]
    lines += [f"To compare: {linked(found['source'])}."] if "source" in found else []
    return "\n".join(lines)


def means(node: dict[str, Any], name: str = "", seeds: int = 0) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(name, how many seeds, the dictionary) of all that has a mean, an interval and a deviation."""
    seeds = len(node.get("seeds", ())) or seeds
    if {"mean", "interval95", "std"} <= set(node):
        yield name, seeds, node
    for key, child in node.items():
        if isinstance(child, dict):
            yield from means(child, f"{name}, {key}" if name else key, seeds)


# ------------------------------------------------------------------------------------------------- the gallery, the tree


def gallery(measured: list[Row]) -> str:
    cards = "\n".join(card(a, measured) for a in ALGOS.values())
    return f"""{WIDE}# The papers

{len(ALGOS)} algorithms and presets, each of them runnable: `thespis train NAME`. [How they descend from each other](tree.md).

<input id="gallery-search" type="search" placeholder="Search by words of title and summary" aria-label="Search the papers">

<div class="gallery">
{cards}
</div>

<p id="gallery-none" hidden>No paper has all of these words.</p>
"""


def card(algo: api.Algorithm, measured: list[Row]) -> str:
    shots = [f"../bench/results/{r.name}.png" for r in subject_of(algo, measured) if (RESULTS / f"{r.name}.png").is_file()]
    shots += re.findall(r"!\[[^]]*\]\(([^)]+)\)", section(algo)[1])
    face = f'<img src="{shots[0]}" alt="What was measured of {algo.name}">' if shots else f'<span class="tile">{algo.name}</span>'
    words = f"<strong>{algo.name}</strong><span>{html.escape(algo.summary)}.</span><small>{html.escape(algo.paper)}</small>"
    return f'<a class="card" href="{algo.name}.html">{face}{words}</a>'


def tree() -> str:
    above = {a.name: parent(a) for a in ALGOS.values()}
    roots = dict.fromkeys(name or own for own, (name, _) in above.items() if name not in ALGOS)

    def branch(name: str) -> str:
        said = above.get(name, ("", ""))[1].removeprefix(name).strip(", ")
        label = f'<a href="{name}.html">{name}</a>' if name in ALGOS else f"<em>{name}</em>"
        below = "".join(branch(child) for child, (of, _) in above.items() if of == name)
        return f"<li>{label}<small>{html.escape(said)}</small>{f'<ul>{below}</ul>' if below else ''}</li>"

    return f"""{WIDE}# The family tree

Each paper under the one that it becomes in a limit, with that limit, as their headers say. Tests hold these limits on numbers.

<div class="tree"><ul>{"".join(map(branch, roots))}</ul></div>
"""


# ----------------------------------------------------------------------------------------------------------- the folder


def mathml(text: str) -> str:
    """$...$ and $$...$$ outside code as MathML, which browsers draw by themselves."""
    code = r"^```.*?^```$|^ {4}[^\n]*$|`[^`]*`"
    formula = r"\$\$(?P<block>[^$]+)\$\$|\$(?P<line>[^$\s][^$]*)\$"

    def drawn(m: re.Match[str]) -> str:
        if m["block"]:
            parts = (f"<span>{drawing(part, large=True)}</span>" for part in re.split(r"(?<=,) *\\quad", m["block"]))
            return f'<div class="formula">{"".join(parts)}</div>'
        return f"<span>{drawing(m['line'])}</span>" if m["line"] else m[0]  # a span: a line that begins with math is no block

    return re.sub(f"{code}|{formula}", drawn, text, flags=re.MULTILINE | re.DOTALL)


def barred(m: re.Match[str]) -> str:
    """Code in a table with an escaped bar, as this Markdown wants it."""
    return f"<code>{html.escape(m[1])}</code>".replace("\\|", "&#124;")


def drawing(latex: str, large: bool = False) -> str:
    """LaTeX as MathML, with what latex2mathml leaves out: letters by their own code points, and room around log."""
    for name, letter in {r"\mathcal H": "ℋ", r"\mathcal N": "𝒩", r"\mathbb E": "𝔼"}.items():
        latex = latex.replace(name, letter)
    room = '<mspace width="0.17em"/>'
    drawn = re.sub("<mi>log</mi>", rf"{room}\g<0>{room}", convert(" ".join(latex.split())))
    return drawn.replace("<math ", '<math displaystyle="true" ' if large else "<math ").replace("|", "&#124;")


def write(src: Path) -> None:
    """Everything that Zensical reads, under `src` as in the repository."""
    shutil.copytree(HOUSE / "docs", src / "docs", ignore=shutil.ignore_patterns("__pycache__", "*.toml", "examples"))
    shutil.copytree(RESULTS, src / "bench/results", ignore=shutil.ignore_patterns("raw"))
    shutil.copy(HOUSE / "README.md", src / "index.md")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(HOUSE / name, src)
    measured = rows()
    pages = {name: page(algo, measured) for name, algo in ALGOS.items()} | {"index": gallery(measured), "tree": tree()}
    (src / "papers").mkdir()
    for name, text in pages.items():
        (src / f"papers/{name}.md").write_text(text)
    for p in list(src.rglob("*.md")):
        text = re.sub(r"`([^`\n]*\\\|[^`\n]*)`", barred, mathml(p.read_text()))
        for target in re.findall(r"\]\(((?:\.\./)*[\w./]+\.(?:py|toml))\)", text):  # a source that is linked gets a page
            whole = (p.parent / target).resolve().relative_to(src.resolve())
            to = src / f"{whole}.md"
            to.parent.mkdir(parents=True, exist_ok=True)
            language = {".py": "python"}.get(whole.suffix, whole.suffix[1:])
            to.write_text(f"# {whole.name}\n\n`{whole}`\n\n```{language}\n{(HOUSE / whole).read_text()}```\n")
            text = text.replace(f"]({target})", f"]({target}.md)")
        p.write_text(text)


# ------------------------------------------------------------------------------------------------------------- the check


class Links(HTMLParser):
    """Of one page: where it leads, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads, self.loads, self.anchors = set[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {k: v for k, v in attrs if v}
        self.anchors |= {has[k] for k in ("id", "name") if k in has}
        self.loads |= {has["src"]} if "src" in has else set()
        if "href" in has:
            (self.leads if tag in ("a", "area") or has.get("rel") == "canonical" else self.loads).add(has["href"])


def check(site: Path) -> list[str]:
    """What is wrong: links to what is not there, and whatever is loaded from another host."""
    pages = {p.resolve(): Links(p.read_text()) for p in site.rglob("*.html")}
    wrong = []
    for p, links in pages.items():
        for target in sorted(links.leads | links.loads):
            url = urlsplit(target)
            to = (p.parent / unquote(url.path)).resolve() if url.path else p
            to = to / "index.html" if to.is_dir() else to
            if url.scheme or url.netloc:
                bad = "is loaded from another host" if target in links.loads and url.scheme != "data" else ""
            elif not to.is_file():
                bad = "does not exist"
            else:
                known = pages[to].anchors if to in pages else set()
                bad = "has no such anchor" if url.fragment and unquote(url.fragment) not in known | {"__top"} else ""
            if bad:
                wrong.append(f"{p.relative_to(site.resolve())}: {target} {bad}")
    return wrong


def build(out: Path) -> None:
    """The site into `out`, anew. Raises SystemExit, having left `out` alone, where a link leads nowhere."""
    with tempfile.TemporaryDirectory() as scratch:
        src = Path(scratch) / "src"
        src.mkdir()
        write(src)
        names = ", ".join(f'{{ "{n}" = "papers/{n}.md" }}' for n in ALGOS)
        (src.parent / "zensical.toml").write_text((HOUSE / "docs/zensical.toml").read_text().replace('"PAPERS"', names))
        words = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        ran = subprocess.run(words, cwd=scratch, capture_output=True, text=True)
        if ran.returncode:
            said = re.sub(r"\x1b\[[\d;]*m", "", ran.stderr + ran.stdout).partition("Traceback")[0]  # without its colours
            sys.exit(f"the site was not built: {said}")
        (src.parent / "site/404.html").unlink()  # its links hold at one address only, which nobody knows here
        if wrong := check(src.parent / "site"):
            sys.exit("the site was not built:\n" + "\n".join(wrong))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(src.parent / "site", out)


if __name__ == "__main__":
    build(out := Path(sys.argv[1] if len(sys.argv) > 1 else HOUSE / "site"))
    print(f"wrote {out}/index.html")
