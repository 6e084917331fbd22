"""report/index.html: every table and figure of both papers on one page, which fills up while a profile is worked on.

The page is made from files alone: the plan, the tables, verdicts and figures under report/, and the records of jobs.
Each result notebook writes it anew when it is done, so this imports no more than the standard library. Nothing is
loaded from elsewhere: figures are inside.
"""

import base64
import csv
import math
import time
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..files import lock, remembered, whole

PAPERS = {
    "S1": "S1: Wang et al. 2022, spatial dependence and dual-constraint loss",
    "S2": "S2: Ling et al. 2021, multi-constraint similarity learning",
    "X": "Of no paper: both papers' parts crossed",
}
METRICS = {"rank1": "rank-1", "mAP": "mAP"}  # those that a table shows here; its .csv has all
WORDS = ("holds", "higher", "fails", "lower")  # verdicts with a colour
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc } h3 { margin: 2.5rem 0 0 }
a { color: #0b5394 } img { max-width: 100%; display: block; margin: 1rem 0 } nav td:first-child { white-space: nowrap }
table { border-collapse: collapse; margin: 1rem 0; font-size: 85% } .wide { overflow-x: auto }
th, td { text-align: left; vertical-align: top; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #eee }
.missing { color: #777 } .holds, .higher { color: #1a7f37 } .fails, .lower { color: #b3261e }
ul { padding-left: 1.2rem }
"""


def write(plan: dict) -> Path:
    """Write the page of a profile, whole or not at all. Args: plan: a graph.Plan. Returns: its path."""
    folder = Path(plan["results"], "report")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    with lock(folder / ".lock"), whole(path) as part:  # of two notebooks that end at once the later sees both
        part.write_text(page(plan), encoding="utf-8")
    return path


def page(plan: dict) -> str:
    """The page as HTML. Text that comes from files is escaped. Args: plan: a graph.Plan."""
    results = Path(plan["results"])
    waits = {key: waits_for(plan, key) for key in plan["items"]}
    there = {key: (results / "report" / f"{key}.csv").is_file() for key in plan["items"]}
    runs = {run for item in plan["items"].values() for run in item["runs"]}
    ready = sum(there[key] and not waits[key] for key in there)
    counts = f"{ready} of {len(there)} tables and figures are there, {done(results, runs)} of {len(runs)} runs are done"
    last = sorted((results / "notebooks").glob("9*.html"))
    links = [
        f'All verdicts and what they rest on: <a href="../notebooks/{quote(f.name)}">{escape(f.stem)}</a>. '
        for f in last
    ]
    shown = {item["notebook"] for item in plan["items"].values()}
    others = [
        f.stem
        for f in sorted((results / "notebooks").glob("[0-9]*_*.ipynb"))
        if f.stem not in {*shown, *(page.stem for page in last)}
    ]
    links += [f"Further notebooks: {', '.join(map(notebook, others))}."] * bool(others)
    body = [f"<h1>Results of profile {escape(plan['profile'])}</h1>"]
    body += [
        f"<p>{counts}. Written {time.strftime('%Y-%m-%d %H:%M:%S')}.</p>",
        f"<p>{''.join(links)}</p>" * bool(links),
    ]
    if plan["profile"] == "quick":
        body.append("<p><b>Profile quick: two epochs on a dozen people. No verdict means anything.</b></p>")
    rows = []
    for key in plan["items"]:
        first = next(iter(lines(results / "report" / f"{key}.txt")), "") if there[key] else ""
        text = " ".join([escape(first)] * bool(first) + [missing(waits[key])] * bool(waits[key]))
        rows.append(f'<tr><td><a href="#{quote(key)}">{escape(key)}</a></td><td>{text}</td></tr>')
    body.append(f"<nav><table>{''.join(rows)}</table></nav>")
    for paper, title in PAPERS.items():
        if keys := [key for key in plan["items"] if key.partition(".")[0] == paper]:
            body.append(f"<h2>{escape(title)}</h2>")
            body += [section(plan, key, there[key], waits[key]) for key in keys]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser loads nothing from a network
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    title = f"<title>vtlib: results of profile {escape(plan['profile'])}</title>"
    head = f'<html lang="en"><head>{head}{title}<style>{STYLE}</style></head>'
    return "\n".join(["<!DOCTYPE html>", head, "<body>", *body, "</body></html>", ""])


def section(plan: dict, key: str, there: bool, waits: str) -> str:
    """The part of the page on one item. Args: plan; key: of the item; there: whether it has a table; waits: or ""."""
    folder, item = Path(plan["results"], "report"), plan["items"][key]
    parts = [f'<section id="{escape(key)}"><h3>{escape(item["title"])}</h3>']
    executed = Path(plan["results"], "notebooks", f"{item['notebook']}.ipynb").is_file()
    links = [notebook(item["notebook"]) if executed else escape(item["notebook"])]
    if there:
        files = sorted(f.name for f in folder.glob(f"{key}[.-]*") if not f.name.endswith(".tmp"))
        links += [f'<a href="{quote(name)}">{escape(name)}</a>' for name in files]
    parts += [f"<p>{' &middot; '.join(links)}</p>", f"<p>{missing(waits)}</p>" * bool(waits)]
    if there:
        parts += [verdict(lines(folder / f"{key}.txt")), table(folder / f"{key}.csv")]
        for picture in [folder / f"{key}.png", *sorted(folder.glob(f"{key}-*.png"))]:
            if picture.is_file():
                data = base64.b64encode(picture.read_bytes()).decode()
                parts.append(f'<img alt="figure of {escape(key)}" src="data:image/png;base64,{data}">')
    return "\n".join([*parts, "</section>"])


def notebook(name: str) -> str:
    """A link to an executed notebook."""
    return f'<a href="../notebooks/{quote(name)}.ipynb">{escape(name)}</a>'


def missing(text: str) -> str:
    """What an item waits for, as HTML."""
    return f'<span class="missing">{escape(text)}</span>'


def waits_for(plan: dict, key: str) -> str:
    """What an item waits for, a sentence; "" for one whose notebook is done. Args: plan; key: of the item."""
    results, item = Path(plan["results"]), plan["items"][key]
    if (results / "notebooks" / f"{item['notebook']}.json").is_file():
        return ""
    count, of_all = done(results, item["runs"]), len(item["runs"])
    text = f"{count} of {of_all} runs done" + f", waits for {item['notebook']}" * (count == of_all)
    lacking = [run for run in item["runs"] if not (results / run).is_file()]
    names = [name for name, job in plan["jobs"].items() if job["output"] in lacking or name == item["notebook"]]
    for name in names:
        record = remembered(results / "jobs" / f"{name}.json")
        if record.get("state") == "failed" and "seconds" in record:  # a record without seconds is of a job that runs
            text += f"; {plan['jobs'][name]['what']} failed: {record.get('reason', '')}"
            break
    if item["notebook"] not in plan["jobs"]:
        text += "; this call was not asked for it"
    return f"{text[0].upper()}{text[1:]}."


def done(results: Path, runs) -> int:
    """How many of some runs are finished. Args: results: folder of the profile; runs: their outputs."""
    return sum((results / run).is_file() for run in runs)


def lines(path: Path) -> list[str]:
    """The lines of a text; [] where it is not there."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def verdict(text: list[str]) -> str:
    """A verdict as HTML: paragraphs, and a list of its lines that begin with "- [holds]" or another such word."""
    parts = []
    for line in filter(str.strip, text):
        word, _, rest = line.removeprefix("- [").partition("]")
        if line.startswith("- ["):
            colour = next((w for w in WORDS if word.startswith(w)), "")
            line = f'<b class="{colour}">{escape(word)}</b>{escape(rest)}'
        else:
            line = escape(line.removeprefix("- "))
        parts.append(f"<ul><li>{line}</li></ul>" if text and line.startswith("<b") else f"<p>{line}</p>")
    return "\n".join(parts).replace("</ul>\n<ul>", "\n")


def table(path: Path) -> str:
    """A table of an item as HTML, from its .csv; "" for the numbers of a figure, which have other columns."""
    with path.open(newline="", encoding="utf-8", errors="replace") as handle:
        rows = [row for row in csv.DictReader(handle) if row.get("metric") in METRICS and "over" in row]
    if not rows:
        return ""
    cells, columns = {}, {}
    for row in rows:
        place = (row.get("setting", ""), METRICS[row["metric"]])
        texts = {
            "printed": number(row, "printed", 2),
            "measured": number(row, "measured", 1) + after(" ± ", number(row, "sd", 1)),
            "difference": number(row, "difference", 1, "+") + interval(row),
        }
        of_row = cells.setdefault(row["row"], {"difference to": row["over"]})
        of_row |= {(*place, kind): text for kind, text in texts.items() if text}
        columns |= dict.fromkeys((*place, kind) for kind in texts)
    settings, metrics = list(dict.fromkeys(setting for setting, *_ in columns)), list(METRICS.values())
    columns = sorted(columns, key=lambda c: (settings.index(c[0]), metrics.index(c[1])))  # the .csv has its own order
    columns = [c for c in columns if any(c in of_row for of_row in cells.values())]
    several = len({setting for setting, *_ in columns}) > 1
    heads = ["", *(" ".join(c if several else c[1:]) for c in columns), "difference to"]
    html = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    for name, of_row in cells.items():
        texts = [name, *(of_row.get(c, "") for c in columns), of_row["difference to"]]
        html.append(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>")
    return f'<div class="wide"><table>{"".join(html)}</table></div>'


def number(row: dict, column: str, digits: int, sign: str = "") -> str:
    """A number of a row with so many decimals; "" for NaN, or where the row has none."""
    try:
        value = round(float(row.get(column) or "nan"), digits) + 0.0  # no -0.0
    except ValueError:
        return ""
    return f"{value:{sign if value else ''}.{digits}f}" if math.isfinite(value) else ""


def interval(row: dict) -> str:
    """The interval of a row's difference, after a space; "" where there is none."""
    low, high = (number(row, f"difference_{end}", 1, "+") for end in ("low", "high"))
    return f" [{low}, {high}]" if low and high else ""


def after(sign: str, text: str) -> str:
    """A text behind a sign; "" for an empty text."""
    return sign + text if text else ""
