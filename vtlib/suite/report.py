"""The report of a profile: what the notebooks write, what they say of it, and the last page that gathers all of it.

results/<profile>/report/ has of each table and figure <item>.csv (printed and measured), .claims.csv, .tex, .txt (the
verdict) and figures; provenance.csv names the run behind every number. `Rows` are the finished runs of each row of an
item. In a row of claims() the column `size` has the name `size_`, since pandas takes the first for itself.
"""

import html
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from safetensors import safe_open

from .. import tuning
from ..common import results_root
from ..config import Experiment
from ..device import environment
from ..files import lock
from ..runs import METRICS, Run, chance, load
from . import plots
from .compare import Gain, folded
from .items import AS_RECIPE, ITEMS, MAIN_PROTOCOL, MEASURED, UNTOUCHED
from .tables import CLAIMED, NAMES, Rows, between, every_run, fixed, latex, spread, under
from .verdicts import CLAIM, CLAIM_COLUMNS, counted, decided, in_full, once, sentence, short

MAIN_TABLES = {"S1": "S1.T3", "S2": "S2.T3"}  # of each paper, the table with its main claims
BEGUN = 0.9  # share of the loss of a guess; a classifier whose loss is higher has hardly begun to learn


def learned(runs: Rows) -> pd.DataFrame:
    """How far the classifiers of each row have come; runs without an identity loss, or of no epochs, are left out.

    Columns: row, data; end: identity loss of the last epoch, in nats for one classifier (a part network has one for
    each stripe), mean over runs; people: number of those trained on; guess: loss of equal odds for all, ln people.
    """
    rows = []
    for row, group in runs.items():
        for run in group:
            e = run.experiment
            if e.epochs and "id" in e.losses:
                classifiers = sum(part.stripes for part in e.parts) or 1
                end = run.history["id"].iloc[-1] / (classifiers if e.over_parts == "sum" else 1)
                rows.append((row, e.data, end, people(run)))
    frame = pd.DataFrame(rows, columns=["row", "data", "end", "people"])
    frame = frame.groupby(["row", "data"], sort=False, as_index=False).mean()
    return frame.assign(guess=[math.log(n) for n in frame.people])


def people(run: Run) -> int:
    """How many people a run was trained on: its classifiers have a row for each."""
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        name = next(name for name in file.keys() if name.endswith("classifier.weight"))  # noqa: SIM118
        return file.get_slice(name).get_shape()[-2]


def unlearned(runs: Rows) -> list[str]:
    """A sentence on the rows whose classifiers have hardly begun to learn; [] if all have."""
    frame, parts = learned(runs), []
    frame = frame[frame.end > BEGUN * frame.guess]
    for (data, n, guess), rows in frame.groupby(["data", "people", "guess"], sort=False):
        ends = ", ".join(f"{r.row} {r.end:.2f}" for r in rows.itertuples())
        parts.append(f"on {data}, where a guess costs ln {n:.0f} = {guess:.2f}: {ends}")
    if not parts:
        return []
    return [
        f"The identity loss of a classifier has hardly begun to fall at the end of training {'; '.join(parts)}. A "
        "difference to such a row says first of all which of the two learns in so short a training."
    ]


def tuned(rows: dict[str, list[Experiment]]):
    """How the rows of a table were tuned, as a Styler for a notebook: the values of the recipe and the best ones.

    mAP of the trials, of half the steps, on validation people (tuning.py), percent. A method without shipped trials has
    no row. Args: rows: experiments of each row.
    """
    first = {row: group[0] for row, group in rows.items()}
    shipped = tuning.shipped(next(iter(first.values())).profile).set_index("method")
    lines = {}
    for row, e in first.items():
        if e.epochs and e.method in shipped.index and not row.endswith(AS_RECIPE):
            trials = shipped.loc[[e.method]]
            recipe, best = trials[trials.recipe].iloc[0], trials[trials.chosen].iloc[0]
            weight = "" if pd.isna(best.weight) else f"{best.weight:g}"
            rate = f"{best.lr:g}, backbone {best.lr * best.backbone_lr_factor:g}"
            lines[row] = [f"{recipe.val_mAP:.1f}", f"{best.val_mAP:.1f}", rate, weight, len(trials)]
    columns = ["as the recipe says", "equally tuned", "rate chosen", "weight, times the recipe's", "trials"]
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    return frame.rename_axis(columns="mAP on validation people, percent").style


def row_figure(item: str, runs: Rows, table: pd.DataFrame, protocol: str = MAIN_PROTOCOL) -> Figure:
    """The rows of a table under one protocol: values with chance as a line, and differences with their intervals.

    Args: item; runs: of its rows; table: table() of the same runs; protocol.
    """
    groups = under(runs, protocol)
    values = every_run(groups, protocol)
    made = table.protocol.fillna("").str.partition(" by ")[0] == protocol  # also by another search
    differences = table[made & table.metric.isin(CLAIMED)]
    first = next(iter(groups.values()))[0]
    lowest = 100 * chance(first, protocol)
    title = f"{short(item)} on {first.experiment.data}: {protocol}"
    return plots.rows(values[values.metric.isin(CLAIMED)], differences, lowest[list(CLAIMED)], title)


def facts_line(experiment: Experiment) -> str:
    """What a number may depend on besides its experiment, in one line: device, threads, precision, versions, commit."""
    facts = environment(experiment.device, experiment.precision)
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    commit = f"commit {facts['commit']}" if facts["commit"] else "no commit known"
    return f"{facts['device']}, {facts['threads']} threads, {facts['precision']}; {versions}; {commit}"


def gained(table: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured difference of a row of table(), its interval and the row that it is to, as text."""
    cell = table[(table.row == row) & (table.setting == setting) & (table.metric == metric)]
    cell = cell[cell.difference.notna()]
    if cell.empty:
        return "not measured"
    r = cell.iloc[0]
    return f"{fixed(r.difference, 1, '+')}{between(r.difference_low, r.difference_high)} over {r.over}"


def level(table: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured value of a row of table(), as text."""
    cell = table[(table.row == row) & (table.setting == setting) & (table.metric == metric)]
    cell = cell[cell.measured.notna()]
    return "not measured" if cell.empty else fixed(cell.measured.iloc[0])


def answers(*texts: str) -> str:
    """The answers to the quick questions of a notebook, as Markdown that a click opens."""
    return folded("Answers", "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1)))


def transfer_words(table: pd.DataFrame, methods: Iterable[str]) -> str:
    """How each way of preparing features changes the mAP of methods on real images; "" if all are plain.

    A method is higher or lower where the interval of its difference to its own plain search, over people, leaves out 0.
    Args: table: transfer_table() of each set, percent but for the skewness, with a column set; methods: rows of it.
    """
    rows = table[(table.metric == "mAP") & table.row.isin(methods)]
    signs = {"higher": rows.change_low_people > 0, "lower": rows.change_high_people < 0}
    rows = rows.assign(**signs | {"above histograms": rows.gain_low_people > 0})
    counts, words, place = [], [], ["set", "direction"]
    plain, moved = rows[rows.way == "plain"].set_index(place), rows[rows.way != "plain"]
    for way, part in moved.groupby("way", sort=False):
        counts.append(
            f"{way} is higher than plain in {part.higher.sum()} and lower in {part.lower.sum()} of {len(part)}"
        )
    for (*where, way), part in moved.groupby([*place, "way"], sort=False):
        now, before = (
            f"{x.value.min():.1f} to {x.value.max():.1f}, hub share {x.hub_share.mean():.0f} %"
            for x in (part, plain.loc[[tuple(where)]])
        )
        lists = [f"{word}: {', '.join(part.row[part[word]]) or 'none'}" for word in (*signs, "above histograms")]
        words.append(f"{' '.join(where)} {way} {now} (plain {before}); {'; '.join(lists)}")
    return f"Transductive, methods and searches: {'; '.join(counts)}. {'. '.join(words)}." if words else ""


def one_gallery(runs: Rows, protocol: str) -> str:
    """A sentence if all draws of a gallery are equal, because there are no more images than shots; else ""."""
    trials = [r.trials(protocol) for group in under(runs, protocol).values() for r in group]
    if not trials or any(len(t) < 2 or len(t[METRICS].drop_duplicates()) > 1 for t in trials):
        return ""
    return f"Under {protocol} all {len(trials[0])} draws give the same gallery: there are no more images than shots."


def write(
    name: str,
    profile: str,
    table: pd.DataFrame,
    text: str,
    claims: pd.DataFrame | None = None,
    figures: dict[str, Figure] | None = None,
) -> list[str]:
    """Write a table under report/: <name>.csv, .txt and figures as .png and .pdf; with claims .claims.csv and .tex too.

    provenance.csv is made anew from all tables there.
    Args: name: a key of ITEMS, or another; profile; table: table(), of_figure(), or any tidy table with run_ids; text:
        verdict_text(), or a sentence; claims: rows of verdicts.claims(); figures: {"": the item's figure, "more": one
        more, written as <name>-more}.
    Returns: names of the files. Raises: ValueError if any run is of another profile.
    """
    columns = [frame.profile for frame in (table, claims) if frame is not None and "profile" in frame]
    if other := sorted({p for column in columns for p in column.dropna()} - {profile, ""}):
        raise ValueError(f"{name}: runs of profile {', '.join(other)} cannot stand in the report of {profile}")
    folder = results_root() / profile / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock"):  # several notebooks write at a time
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.3f")
        (folder / f"{name}.txt").write_text(text + "\n")
        if claims is not None:
            claims.to_csv(folder / f"{name}.claims.csv", index=False, float_format="%.3f")
            (folder / f"{name}.tex").write_text(latex(table))
        for more, figure in (figures or {}).items():
            plots.save(figure, folder / (f"{name}-{more}" if more else name))
        provenance(folder).to_csv(folder / "provenance.csv", index=False)
    return sorted(p.name for p in folder.glob(f"{name}[.-]*"))


def provenance(folder: Path) -> pd.DataFrame:
    """Where the numbers of a report come from: a row for each run that a table names. Args: folder: the report."""
    names = {}
    for path in sorted(folder.glob("*.csv")):
        if path.name not in ("provenance.csv", "claims.csv"):
            ids = " ".join(pd.read_csv(path, usecols=lambda c: c == "run_ids", dtype=str).squeeze(axis=1).dropna())
            for run_id in dict.fromkeys(ids.split()):
                names.setdefault(run_id, []).append(path.stem.removesuffix(".claims"))
    rows = []
    for run_id, tables in names.items():
        path = folder.parent / "runs" / run_id
        if not (path / "metrics.json").is_file():
            continue  # the run was removed since; gathered() says that the table must be made again
        run = load(path)
        e, m = run.experiment, run.metrics
        config = {c: getattr(e, c) for c in ("method", "dataset", "data", "split", "seed", "profile", "epochs")}
        facts = {c: m[c] for c in ("commit", "device", "precision", "threads", "data_digest", "finished")}
        facts["code"] = m.get("code_digest", "")[:12]
        versions = " ".join(f"{k}={v}" for k, v in m["versions"].items())
        where = {"folder": f"runs/{run_id}", "config": f"runs/{run_id}/experiment.json"}
        used = " ".join(dict.fromkeys(tables))
        rows.append({"run_id": run_id, **config, **facts, "versions": versions, **where, "used_in": used})
    return pd.DataFrame(rows)


class Gathered(NamedTuple):
    """A report folder, read."""

    claims: pd.DataFrame  # of all items
    tables: dict[str, pd.DataFrame]  # by item
    provenance: pd.DataFrame
    missing: list[str]  # items without a report


def gathered(profile: str) -> Gathered:
    """Everything under report/ of a profile.

    Raises: FileNotFoundError before the first report; ValueError where a table is of another profile, names a run that
        is gone, or is of other data than another table of the same name.
    """
    folder = results_root() / profile / "report"
    present = [item for item in ITEMS if (folder / f"{item}.csv").is_file()]
    if not present:
        raise FileNotFoundError(f"{folder} has no table: run the notebooks 20 to 34 with profile={profile} first")
    tables = {item: pd.read_csv(folder / f"{item}.csv") for item in present}
    frames = [
        pd.read_csv(folder / f"{item}.claims.csv", keep_default_na=True, dtype={"setting": str}) for item in present
    ]
    claims = pd.concat([f for f in frames if len(f)], ignore_index=True)
    texts = [c for c in CLAIM_COLUMNS if c not in ("printed", *Gain._fields)]
    claims[texts] = claims[texts].astype(object).fillna("")
    runs_of = provenance(folder)
    for item, table in tables.items():
        if other := set(table.profile.dropna()) - {profile}:
            raise ValueError(f"{item}.csv has runs of profile {', '.join(sorted(other))}: it is no table of {profile}")
        named = {run_id for ids in table.run_ids.dropna() for run_id in ids.split()}
        if gone := sorted(named - set(runs_of.run_id)):
            raise ValueError(f"{item}.csv names run {gone[0]}, which is not there: run {ITEMS[item].notebook} again")
    for (name, split), group in runs_of.groupby(["data", "split"]):
        if group.data_digest.nunique() > 1:
            ids = ", ".join(group.drop_duplicates("data_digest").run_id)
            raise ValueError(f"runs {ids} were measured on different contents of {name}, split {split}: run them again")
    return Gathered(claims, tables, runs_of, [item for item in ITEMS if item not in present])


def facts(report: Gathered) -> pd.DataFrame:
    """What all numbers of a report were measured with, a line for each fact."""
    p = report.provenance
    device, commit = (
        ", ".join(f"{name or 'unknown'} ({n} runs)" for name, n in p[c].value_counts().items())
        for c in ("device", "commit")
    )
    rows = {
        "profile": ", ".join(p.profile.unique()),
        "data": ", ".join(f"{name} ({digest[:12]})" for (name, digest), _ in p.groupby(["data", "data_digest"])),
        "runs": f"{len(p)}, of {p.method.nunique()} methods, seeds {', '.join(map(str, sorted(p.seed.unique())))}",
        "device": device,
        "precision": ", ".join(p.precision.unique()),
        "commit": commit,
        "code that decides a result": ", ".join(f"{code} ({n} runs)" for code, n in p.code.value_counts().items()),
        "versions": "; ".join(p.versions.unique()),
        "finished": f"{p.finished.min()} to {p.finished.max()}",
    }
    return pd.DataFrame({"": rows})


def firm(claims: pd.DataFrame, count: int = 5) -> list[str]:
    """The decided comparisons whose gain is most standard errors from 0, a sentence each.

    Args: claims: rows of verdicts.claims(); count: how many at most.
    """
    rows = once(claims)
    rows = rows[decided(rows) & (rows.metric == CLAIMED[0]) & rows.gain.notna()]
    return [stated_claim(row) for row in surest_first(rows)[:count].itertuples()]


def surest_first(claims: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims() in the order of how many standard errors their gain is from 0, the most first; with `size_`."""
    errors = claims.gain.abs() / (claims.over_people**2 + claims.over_seeds.fillna(0) ** 2) ** 0.5
    return claims.loc[errors.sort_values(ascending=False).index].rename(columns={"size": "size_"})


def stated_claim(row) -> str:
    """A row of claims(), a named tuple, as a sentence with its numbers."""
    printed = "" if pd.isna(row.printed) else f"; printed {fixed(row.printed, 1, '+')}"
    name = NAMES.get(row.metric, row.metric)
    return (
        f"{row.claim}: {fixed(row.gain, 1, '+')}{between(row.low, row.high)} {name}, {in_full(row)}{printed} "
        f"({short(row.item)}, {row.pairs:.0f} pair{'s' * (row.pairs > 1)} of runs)."
    )


def not_carried(claims: pd.DataFrame) -> list[str]:
    """What a paper claims and what is not so here, a sentence each, with the reason that we suppose.

    The verdict is fails, equivalent or did not act, or it is undecided with the whole interval below the printed gain.
    Args: claims: rows of verdicts.claims().
    """
    rows = once(claims)
    word = rows.verdict.str.split(" on ").str[0]
    ruled_out = (word == "undecided") & (rows["size"] == "smaller")
    rows = rows[(word.isin(["fails", "equivalent", "did not act"]) | ruled_out) & rows.gain.notna()]
    lines = []
    for row in rows.rename(columns={"size": "size_"}).itertuples():
        why = row.note if row.verdict == "did not act" else why_of(row)
        lines.append(f"{stated_claim(row)}{f' Why we think so: {why}.' if why else ''}")
    return lines


def why_of(row) -> str:
    """What may explain a row of claims(): what tuning gave the other system, or why we foresaw it; "" if nothing."""
    claims = [claim for claim in ITEMS[row.item].claims if claim.text == row.claim]
    shipped = tuning.shipped(row.profile)
    for claim in claims:
        trials = shipped[shipped.method == MEASURED.get(claim.over)]
        recipe = trials.val_mAP[trials.recipe.astype(bool)]
        if len(recipe) and (gain := trials.val_mAP.max() - recipe.iloc[0]) > 1:
            return f"equal trials gave {claim.over} {gain:.1f} mAP on validation people"
    return next((claim.because for claim in claims if row.foreseen == "as predicted"), "")


def open_questions(claims: pd.DataFrame) -> list[str]:
    """What is undecided and what would decide it, a sentence each, the nearest to a decision first.

    Args: claims: rows of verdicts.claims().
    """
    rows = once(claims)
    rows = surest_first(rows[(rows.verdict == "undecided") & rows.gain.notna()])
    return [f"{stated_claim(row)}{sentence(row.note)}" for row in rows.itertuples()]


def predictions(claims: pd.DataFrame) -> str:
    """How many of our predictions came true, and each that failed with what was expected and why, as Markdown.

    Args: claims: rows of verdicts.claims().
    """
    rows = once(claims)
    rows = rows[rows.foreseen != ""]
    right = (rows.foreseen == "as predicted").sum()
    lines = [
        f"- {row.claim} ({short(row.item)}): {fixed(row.gain, 1, '+')}{between(row.low, row.high)}, {row.foreseen}"
        for row in rows[rows.foreseen != "as predicted"].itertuples()
    ]
    first = f"{right} of {len(rows)} predictions came true. Those that failed:" if len(rows) else ""
    return "\n".join([first, "", *lines])


def bullets(lines: list[str], empty: str) -> str:
    """Sentences as a list in Markdown, or the words for an empty one."""
    return "\n".join(f"- {line}" for line in lines) or empty


def levels(report: Gathered, protocol: str = MAIN_PROTOCOL) -> pd.DataFrame:
    """The measured values from chance and the untouched start to every row of S1 Table 3 and S2 Table 3, as text."""
    rows, ids = {}, []
    for item in MAIN_TABLES.values():
        table = report.tables.get(item, pd.DataFrame(columns=["protocol", "measured"]))
        table = table[(table.protocol == protocol) & table.measured.notna()]
        for row, group in table.groupby("row", sort=False) if len(table) else ():
            values = group.set_index("metric")
            texts = [spread(values.measured[m], values.sd[m]) for m in CLAIMED]
            rows[f"{short(item)}: {row}"] = [*texts, values.runs.iloc[0]]
            ids += group.run_ids.iloc[0].split()
    if ids:
        folder = results_root() / report.provenance.profile.iloc[0] / "runs"
        lowest = 100 * chance(load(folder / ids[0]), protocol)
        start = {name: rows.pop(name) for name in [*rows] if name.endswith(UNTOUCHED)}
        rows = {"chance: random features": [f"{lowest[m]:.1f}" for m in CLAIMED] + [""]} | start | rows
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*(NAMES.get(m, m) for m in CLAIMED), "runs"])


def files(item: str, folder: Path) -> str:
    """Links, as HTML, to an item's notebook and to its files in `folder`, from a page in the folder beside it."""
    names = sorted(p.name for p in folder.glob(f"{item}[.-]*"))
    links = [f'<a href="../report/{name}">{name.removeprefix(item).lstrip(".")}</a>' for name in names]
    return f'<a href="{ITEMS[item].notebook}.ipynb">{ITEMS[item].notebook}</a>: ' + " ".join(links)


def overview(claims: pd.DataFrame):
    """All measured claims as a Styler: a line for each claim, with a link to the notebook that shows it.

    Args: claims: rows of verdicts.claims().
    """
    rows, claims = [], claims[claims.verdict != "not measured"].rename(columns={"size": "size_"})
    counts = once(claims)
    where_counted = counts[counts.comparison != ""].set_index("comparison").item
    for (item, words, setting), group in claims.groupby(CLAIM, sort=False):
        first, *others = group.itertuples()
        settings = claims[(claims.item == item) & (claims.claim == words)].setting.nunique()
        link = f'<a href="{ITEMS[item].notebook}.ipynb">{short(item)}</a>'
        words, metric = html.escape(words + f" ({setting})" * (settings > 1)), NAMES.get(first.metric, first.metric)
        printed = spread(first.printed, math.nan, 1, "+")
        measured = spread(first.gain, math.nan, 1, "+") + between(first.low, first.high)
        over_pairs = "" if first.pairs < 2 else f"{fixed(first.sd)} ({first.pairs:.0f})"
        by_map = ", ".join(f"{spread(r.gain, math.nan, 1, '+')} {r.verdict}".strip() for r in others)
        word, why = first.verdict, html.escape(first.note)
        if first.Index not in counts.index:
            word, why = f"counted in {short(where_counted[first.comparison])}", ""
        rows.append([link, words, metric, printed, measured, first.size_, over_pairs, word, by_map, why])
    colours = {"holds": plots.RIGHT, "higher": plots.RIGHT, "fails": plots.WRONG, "lower": plots.WRONG}
    columns = ["of", "claim", "metric", "printed", "measured", "size", "sd over pairs", "verdict", "by mAP"]
    columns += ["what would decide it, or why it is not judged"]
    style = pd.DataFrame(rows, columns=columns).style.hide(axis="index")
    style = style.map(lambda word: f"color: {colours.get(word.split()[0], '#666')}", subset=["verdict"])
    style = style.set_table_attributes('style="font-size: 85%"')
    one_line = "text-align: left; vertical-align: top; white-space: nowrap"
    styles = {"th": one_line, "td": one_line} | {f"td.col{i}": "white-space: normal" for i in (1, 2, 8, 9)}
    return style.set_table_styles([{"selector": s, "props": css} for s, css in styles.items()])


def did_it_hold(claims: pd.DataFrame, paper: str) -> str:
    """How many claims of a paper hold here, and its main ones with their numbers: two sentences in Markdown.

    Args: claims: rows of verdicts.claims(); paper: "S1" or "S2".
    """
    of_paper = claims[claims.item.str.startswith(paper)]
    rank1 = once(of_paper)
    rank1 = rank1[rank1.verdict != "not measured"]
    if rank1.empty:
        return f"No claim of {paper} was measured."
    left_out = (of_paper.drop_duplicates(CLAIM).verdict == "not measured").sum()
    main = of_paper[of_paper.item == MAIN_TABLES[paper]]
    main = main[(main.metric == "rank1") & (main.protocol == MAIN_PROTOCOL)]
    parts = [
        f"{r.claim} {spread(r.gain, math.nan, 1, '+')}{between(r.low, r.high)}, printed {fixed(r.printed, 1, '+')} "
        f"(**{in_full(r)}**)"
        for r in main.rename(columns={"size": "size_"}).itertuples()
    ]
    return (
        f"Of {len(rank1)} comparisons that {paper} claims and that are measured here, each counted once, the verdicts "
        f"are: **{counted(rank1)}** ({left_out} more are of systems or data that nobody measures here). "
        f"The main ones in percent points of rank-1: {'; '.join(parts) or 'not measured'}."
    )


def page(notebook: Path) -> Path:
    """Write an executed notebook as one HTML file beside it: no code, figures inside, nothing loaded from a network.

    The scripts that the exporter would load show formulas and widgets; without them formulas stay as they are written.
    Returns: the path of the HTML file.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_filename(str(notebook))
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
    target = notebook.with_suffix(".html")
    target.write_text(body)
    return target
