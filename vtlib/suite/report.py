"""What was measured beside what is printed: tables, claims with their verdicts, the report folder and its page.

Under results/<profile>/report/, of each table and figure: <item>.csv and .claims.csv, .tex, .txt (the verdict) and
figures; provenance.csv leads from every number to its runs.
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
from .items import AS_RECIPE, CLAIMS, ITEMS, MAIN_PROTOCOL, MEASURED, UNTOUCHED
from .tables import CLAIMED, NAMES, Rows, between, every_run, fixed, latex, spread, under
from .verdicts import CLAIM, CLAIM_COLUMNS, counted, in_full, once, sentence, short


def learned(runs: Rows) -> pd.DataFrame:
    """How far the classifiers of each row have come: row, data, end, guess, people; of runs with an identity loss.

    end: identity loss of the last epoch, in nats a classifier (a part network has one for each stripe), mean over
    runs; guess: what equal odds for all training people cost, ln of their number.
    """
    found = []
    for row, group in runs.items():
        for run in group:
            e = run.experiment
            if e.epochs and "id" in e.losses:
                classifiers = sum(part.stripes for part in e.parts) or 1
                end = run.history["id"].iloc[-1] / (classifiers if e.over_parts == "sum" else 1)
                found.append((row, e.data, end, people(run)))
    frame = pd.DataFrame(found, columns=["row", "data", "end", "people"])
    frame = frame.groupby(["row", "data"], sort=False, as_index=False).mean()
    return frame.assign(guess=[math.log(n) for n in frame.people])


def people(run: Run) -> int:
    """How many people a run was trained on: the rows of its classifiers."""
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        name = next(name for name in file.keys() if name.endswith("classifier.weight"))  # noqa: SIM118
        return file.get_slice(name).get_shape()[-2]


BEGUN = 0.9  # of the loss of a guess: a classifier above has hardly begun to learn


def unlearned(runs: Rows) -> list[str]:
    """A sentence on the rows whose classifiers have hardly begun to learn; [] where all have."""
    each, parts = learned(runs), []
    for (data, n, guess), of in each[each.end > BEGUN * each.guess].groupby(["data", "people", "guess"], sort=False):
        ends = ", ".join(f"{r.row} {r.end:.2f}" for r in of.itertuples())
        parts.append(f"on {data}, where a guess costs ln {n:.0f} = {guess:.2f}: {ends}")
    if not parts:
        return []
    return [
        f"The identity loss of a classifier has hardly begun to fall at the end of training {'; '.join(parts)}. A "
        "difference to such a row says first of all which of the two learns in so short a training."
    ]


def tuned(rows: dict[str, list[Experiment]]):
    """How each row of a table was tuned, on validation people, for a notebook: the recipe's values and the best.

    mAP of trials of half the steps (tuning.py), percent; nothing where the choice of a profile does not ship.
    """
    every = {row: group[0] for row, group in rows.items()}
    found = tuning.shipped(next(iter(every.values())).profile).set_index("method")
    lines = {}
    for row, e in every.items():
        if e.epochs and e.method in found.index and not row.endswith(AS_RECIPE):
            of = found.loc[[e.method]]
            recipe, best = of[of.recipe].iloc[0], of[of.chosen].iloc[0]
            weight = "" if pd.isna(best.weight) else f"{best.weight:g}"
            rate = f"{best.lr:g}, backbone {best.lr * best.backbone_lr_factor:g}"
            lines[row] = [f"{recipe.val_mAP:.1f}", f"{best.val_mAP:.1f}", rate, weight, len(of)]
    columns = ["as the recipe says", "equally tuned", "rate chosen", "weight, times the recipe's", "trials"]
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    return frame.rename_axis(columns="mAP on validation people, percent").style


def row_figure(item: str, runs: Rows, made: pd.DataFrame, protocol: str = MAIN_PROTOCOL) -> Figure:
    """The rows of a table under one protocol: levels beside chance, and differences with their intervals.

    Args: made: table() of the same runs.
    """
    groups = under(runs, protocol)
    each = every_run(groups, protocol)
    ahead = made[(made.protocol == protocol) & made.metric.isin(CLAIMED)]
    lowest = 100 * chance(next(iter(groups.values()))[0], protocol)
    data = next(iter(groups.values()))[0].experiment.data
    title = f"{short(item)} on {data}: {protocol}"
    return plots.rows(each[each.metric.isin(CLAIMED)], ahead, lowest[list(CLAIMED)], title)


def facts_line(experiment: Experiment) -> str:
    """What a number may depend on besides the experiment, in one line."""
    of = environment(experiment.device, experiment.precision)
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    commit = f"commit {of['commit']}" if of["commit"] else "no commit known"
    return f"{of['device']}, {of['threads']} threads, {of['precision']}; {versions}; {commit}"


def gained(made: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured difference of a row of table() with its interval and the row that it is to, as text."""
    of = made[(made.row == row) & (made.setting == setting) & (made.metric == metric) & made.difference.notna()]
    if of.empty:
        return "not measured"
    r = of.iloc[0]
    return f"{fixed(r.difference, 1, '+')}{between(r.difference_low, r.difference_high)} over {r.over}"


def level(made: pd.DataFrame, row: str, setting: str = "all", metric: str = "rank1") -> str:
    """The measured value of a row of table(), as text."""
    of = made[(made.row == row) & (made.setting == setting) & (made.metric == metric) & made.measured.notna()]
    return "not measured" if of.empty else fixed(of.measured.iloc[0])


def answers(*texts: str) -> str:
    """Answers to the quick questions of a notebook as Markdown that a click opens."""
    return folded("Answers", "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1)))


def transfer_words(table: pd.DataFrame, methods: Iterable[str]) -> str:
    """What each way of preparing features changes of what methods find in real images, by mAP; "" of plain ones alone.

    Higher or lower is a method whose difference to its own plain search, over whole people, leaves out 0.
    Args: table: transfer_table() of each set, in percent but for the skewness, and a column set.
    """
    own = table[(table.metric == "mAP") & table.row.isin(methods)]
    found = {"higher": own.change_low_people > 0, "lower": own.change_high_people < 0}
    own = own.assign(**found | {"above histograms": own.gain_low_people > 0})
    counts, words, place = [], [], ["set", "direction"]
    plain, moved = own[own.way == "plain"].set_index(place), own[own.way != "plain"]
    for way, part in moved.groupby("way", sort=False):
        counts.append(
            f"{way} is higher than plain in {part.higher.sum()} and lower in {part.lower.sum()} of {len(part)}"
        )
    for (*where, way), part in moved.groupby([*place, "way"], sort=False):
        before = plain.loc[[tuple(where)]]
        now, then = (
            f"{x.value.min():.1f} to {x.value.max():.1f}, hub share {x.hub_share.mean():.0f} %" for x in (part, before)
        )
        lists = [f"{word}: {', '.join(part.row[part[word]]) or 'none'}" for word in (*found, "above histograms")]
        words.append(f"{' '.join(where)} {way} {now} (plain {then}); {'; '.join(lists)}")
    return f"Transductive, methods and searches: {'; '.join(counts)}. {'. '.join(words)}." if words else ""


def one_gallery(runs: Rows, protocol: str) -> str:
    """A sentence where all draws of a gallery are the same one, since there are only as many images as shots; or ""."""
    trials = [r.trials(protocol) for group in under(runs, protocol).values() for r in group]
    if not trials or any(len(t) < 2 or len(t[METRICS].drop_duplicates()) > 1 for t in trials):
        return ""
    return f"Under {protocol} all {len(trials[0])} draws give the same gallery: there are no more images than shots."


def write(
    name: str,
    profile: str,
    made: pd.DataFrame,
    text: str,
    found: pd.DataFrame | None = None,
    figures: dict[str, Figure] | None = None,
) -> list[str]:
    """Write a table under report/: <name>.csv, .txt (the verdict), of a paper also .claims.csv and .tex, and figures.

    Figures are .png and .pdf; provenance.csv is made anew of all tables there. Args: made: table() or of_figure(), or
    any tidy table with run_ids; text: verdict_text(), or a sentence; found: claims(); figures: {"": the item's figure,
    "more": another one, as <name>-more}.
    Returns: names of the files. Raises: ValueError if any run is of another profile.
    """
    named = [frame.profile for frame in (made, found) if frame is not None and "profile" in frame]
    if other := sorted({p for column in named for p in column.dropna()} - {profile, ""}):
        raise ValueError(f"{name}: runs of profile {', '.join(other)} cannot stand in the report of {profile}")
    folder = results_root() / profile / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock"):  # several notebooks write at a time
        made.to_csv(folder / f"{name}.csv", index=False, float_format="%.3f")
        (folder / f"{name}.txt").write_text(text + "\n")
        if found is not None:
            found.to_csv(folder / f"{name}.claims.csv", index=False, float_format="%.3f")
            (folder / f"{name}.tex").write_text(latex(made))
        for more, figure in (figures or {}).items():
            plots.save(figure, folder / (f"{name}-{more}" if more else name))
        provenance(folder).to_csv(folder / "provenance.csv", index=False)
    return sorted(p.name for p in folder.glob(f"{name}[.-]*"))


def provenance(folder: Path) -> pd.DataFrame:
    """Where the numbers of a report come from: a row for each run that any of its tables names."""
    names = {}
    for path in sorted(folder.glob("*.csv")):
        if path.name not in ("provenance.csv", "claims.csv"):
            ids = " ".join(pd.read_csv(path, usecols=lambda c: c == "run_ids", dtype=str).squeeze(axis=1).dropna())
            for run_id in dict.fromkeys(ids.split()):
                names.setdefault(run_id, []).append(path.stem.removesuffix(".claims"))
    rows = []
    for run_id, items in names.items():
        path = folder.parent / "runs" / run_id
        if not (path / "metrics.json").is_file():
            continue  # set aside since: its table must be made again, and gathered() says so
        run = load(path)
        e, m = run.experiment, run.metrics
        config = {c: getattr(e, c) for c in ("method", "dataset", "data", "split", "seed", "profile", "epochs")}
        facts = {c: m[c] for c in ("commit", "device", "precision", "threads", "data_digest", "finished")}
        facts["code"] = m.get("code_digest", "")[:12]
        versions = " ".join(f"{k}={v}" for k, v in m["versions"].items())
        where = {"folder": f"runs/{run_id}", "config": f"runs/{run_id}/experiment.json"}
        used = " ".join(dict.fromkeys(items))
        rows.append({"run_id": run_id, **config, **facts, "versions": versions, **where, "used_in": used})
    return pd.DataFrame(rows)


class Gathered(NamedTuple):
    """A report folder, read: all claims, all tables by item, where their runs come from, what is not there."""

    claims: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    provenance: pd.DataFrame
    missing: list[str]  # items without a report


def gathered(profile: str) -> Gathered:
    """Everything under report/ of a profile.

    Raises: FileNotFoundError before the first report; ValueError where a table is of another profile, names a run that
        is gone, or is of other data than another table of the same name.
    """
    folder = results_root() / profile / "report"
    there = [item for item in ITEMS if (folder / f"{item}.csv").is_file()]
    if not there:
        raise FileNotFoundError(f"{folder} has no table: run the notebooks 20 to 34 with profile={profile} first")
    tables = {item: pd.read_csv(folder / f"{item}.csv") for item in there}
    frames = [
        pd.read_csv(folder / f"{item}.claims.csv", keep_default_na=True, dtype={"setting": str}) for item in there
    ]
    every = pd.concat([f for f in frames if len(f)], ignore_index=True)
    texts = [c for c in CLAIM_COLUMNS if c not in ("printed", *Gain._fields)]
    every[texts] = every[texts].astype(object).fillna("")
    runs_of = provenance(folder)
    for item, made in tables.items():
        if other := set(made.profile.dropna()) - {profile}:
            raise ValueError(f"{item}.csv has runs of profile {', '.join(sorted(other))}: it is no table of {profile}")
        named = {run_id for ids in made.run_ids.dropna() for run_id in ids.split()}
        if gone := sorted(named - set(runs_of.run_id)):
            raise ValueError(f"{item}.csv names run {gone[0]}, which is not there: run {ITEMS[item].notebook} again")
    for (name, split), group in runs_of.groupby(["data", "split"]):
        if group.data_digest.nunique() > 1:
            ids = ", ".join(group.drop_duplicates("data_digest").run_id)
            raise ValueError(f"runs {ids} were measured on different contents of {name}, split {split}: run them again")
    return Gathered(every, tables, runs_of, [item for item in ITEMS if item not in there])


def facts(of: Gathered) -> pd.DataFrame:
    """What all numbers of a report were measured with, a line each."""
    p = of.provenance
    last = [
        ", ".join(f"{name or 'unknown'} ({n} runs)" for name, n in p[c].value_counts().items())
        for c in ("device", "commit")
    ]
    rows = {
        "profile": ", ".join(p.profile.unique()),
        "data": ", ".join(f"{name} ({digest[:12]})" for (name, digest), _ in p.groupby(["data", "data_digest"])),
        "runs": f"{len(p)}, of {p.method.nunique()} methods, seeds {', '.join(map(str, sorted(p.seed.unique())))}",
        "device": last[0],
        "precision": ", ".join(p.precision.unique()),
        "commit": last[1],
        "code that decides a result": ", ".join(f"{code} ({n} runs)" for code, n in p.code.value_counts().items()),
        "versions": "; ".join(p.versions.unique()),
        "finished": f"{p.finished.min()} to {p.finished.max()}",
    }
    return pd.DataFrame({"": rows})


def firm(found: pd.DataFrame, count: int = 5) -> list[str]:
    """The comparisons that are decided by most standard errors, a sentence each: holds, fails, higher, lower."""
    each = once(found)
    decided = each.verdict.str.split().str[0].isin(["holds", "fails", "higher", "lower"])
    each = each[decided & (each.metric == CLAIMED[0]) & each.gain.notna()]
    return [stated_claim(row) for row in surest_first(each)[:count].itertuples()]


def surest_first(each: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims() by how many standard errors their gain is from 0; a column `size_`, as pandas has a size."""
    errors = each.gain.abs() / (each.over_people**2 + each.over_seeds.fillna(0) ** 2) ** 0.5
    return each.loc[errors.sort_values(ascending=False).index].rename(columns={"size": "size_"})


def stated_claim(row) -> str:
    """A row of claims() as a sentence with its numbers."""
    printed = "" if pd.isna(row.printed) else f"; printed {fixed(row.printed, 1, '+')}"
    name = NAMES.get(row.metric, row.metric)
    return (
        f"{row.claim}: {fixed(row.gain, 1, '+')}{between(row.low, row.high)} {name}, {in_full(row)}{printed} "
        f"({short(row.item)}, {row.pairs:.0f} pair{'s' * (row.pairs > 1)} of runs)."
    )


def not_carried(found: pd.DataFrame) -> list[str]:
    """What a paper claims and what is not so here, and why we think so: fails, equivalent, did not act, or undecided
    with the whole interval below the printed gain."""
    each = once(found)
    word = each.verdict.str.split(" on ").str[0]
    ruled_out = (word == "undecided") & (each["size"] == "smaller")
    each = each[(word.isin(["fails", "equivalent", "did not act"]) | ruled_out) & each.gain.notna()]
    lines = []
    for row in each.rename(columns={"size": "size_"}).itertuples():
        why = row.note if row.verdict == "did not act" else why_of(row)
        lines.append(f"{stated_claim(row)}{f' Why we think so: {why}.' if why else ''}")
    return lines


def why_of(row) -> str:
    """What may explain a row of claims(): what equal trials gave the other system, or a reason that we foresaw."""
    said = [c for c in CLAIMS.get(row.item, []) if row.claim in (c.words, f"{c.better} over {c.over}")]
    made = tuning.shipped(row.profile)
    for claim in said:
        of = made[made.method == MEASURED.get(claim.over)]
        if len(of) and of.recipe.any() and (gain := of.val_mAP.max() - of[of.recipe].val_mAP.iloc[0]) > 1:
            return f"equal trials gave {claim.over} {gain:.1f} mAP on validation people"
    return next((c.because for c in said if row.foreseen == "as predicted"), "")


def open_questions(found: pd.DataFrame) -> list[str]:
    """What is undecided, and what would decide it, a sentence each, the nearest to a decision first."""
    each = once(found)
    each = surest_first(each[(each.verdict == "undecided") & each.gain.notna()])
    return [f"{stated_claim(row)}{sentence(row.note)}" for row in each.itertuples()]


def predictions(found: pd.DataFrame) -> str:
    """How our own predictions came out, as Markdown: a count, and those that failed with what was expected and why."""
    each = once(found)
    each = each[each.foreseen != ""]
    right = (each.foreseen == "as predicted").sum()
    lines = [
        f"- {row.claim} ({short(row.item)}): {fixed(row.gain, 1, '+')}{between(row.low, row.high)}, {row.foreseen}"
        for row in each[each.foreseen != "as predicted"].itertuples()
    ]
    return "\n".join(
        [f"{right} of {len(each)} predictions came true. Those that failed:" * bool(len(each)), "", *lines]
    )


def bullets(lines: list[str], empty: str) -> str:
    """Sentences as a list in Markdown, or the words for none."""
    return "\n".join(f"- {line}" for line in lines) or empty


def levels(of: Gathered, protocol: str = MAIN_PROTOCOL) -> pd.DataFrame:
    """Where the scale begins and ends: chance, the untouched start, and every row of S1 Table 3 and S2 Table 3."""
    rows, ids = {}, []
    for item in ("S1.T3", "S2.T3"):
        made = of.tables.get(item, pd.DataFrame(columns=["protocol", "measured"]))
        made = made[(made.protocol == protocol) & made.measured.notna()]
        for row, group in made.groupby("row", sort=False) if len(made) else ():
            values = group.set_index("metric")
            texts = [spread(values.measured[m], values.sd[m]) for m in CLAIMED]
            rows[f"{short(item)}: {row}"] = [*texts, values.runs.iloc[0]]
            ids += group.run_ids.iloc[0].split()
    if ids:
        folder = results_root() / of.provenance.profile.iloc[0] / "runs"
        lowest = 100 * chance(load(folder / ids[0]), protocol)
        start = {name: rows.pop(name) for name in [*rows] if name.endswith(UNTOUCHED)}
        rows = {"chance: random features": [f"{lowest[m]:.1f}" for m in CLAIMED] + [""]} | start | rows
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*(NAMES.get(m, m) for m in CLAIMED), "runs"])


def files(item: str, folder: Path) -> str:
    """Links, as HTML, to the files of an item's report, from a notebook or page beside the folder report/."""
    names = sorted(p.name for p in folder.glob(f"{item}[.-]*"))
    links = [f'<a href="../report/{name}">{name.removeprefix(item).lstrip(".")}</a>' for name in names]
    return f'<a href="{ITEMS[item].notebook}.ipynb">{ITEMS[item].notebook}</a>: ' + " ".join(links)


def overview(found: pd.DataFrame):
    """All measured claims as one table for a page: a line a claim, with a link to the notebook that shows it."""
    rows, found = [], found[found.verdict != "not measured"].rename(columns={"size": "size_"})
    counts = once(found)
    where_counted = counts[counts.comparison != ""].set_index("comparison").item
    for (item, words, setting), group in found.groupby(CLAIM, sort=False):
        first, *more = group.itertuples()
        many = (found.item == item) & (found.claim == words)
        where = f" ({setting})" if found[many].setting.nunique() > 1 else ""
        measured = spread(first.gain, math.nan, 1, "+") + between(first.low, first.high)
        link = f'<a href="{ITEMS[item].notebook}.ipynb">{short(item)}</a>'
        seeds_ = "" if first.pairs < 2 else f"{fixed(first.sd)} ({first.pairs:.0f})"
        others = [f"{spread(r.gain, math.nan, 1, '+')} {r.verdict}".strip() for r in more]
        words, metric = html.escape(words + where), NAMES.get(first.metric, first.metric)
        before = spread(first.printed, math.nan, 1, "+")
        word = first.verdict
        if first.Index not in counts.index:
            word = f"counted in {short(where_counted[first.comparison])}"
        why = "" if word.startswith("counted") else html.escape(first.note)
        rows.append([link, words, metric, before, measured, first.size_, seeds_, word, ", ".join(others), why])
    colours = {"holds": plots.RIGHT, "higher": plots.RIGHT, "fails": plots.WRONG, "lower": plots.WRONG}
    columns = ["of", "claim", "metric", "printed", "measured", "size", "sd over pairs", "verdict", "by mAP"]
    columns += ["what would decide it, or why it is not judged"]
    style = pd.DataFrame(rows, columns=columns).style.hide(axis="index")
    style = style.map(lambda word: f"color: {colours.get(word.split()[0], '#666')}", subset=["verdict"])
    style = style.set_table_attributes('style="font-size: 85%"')
    one_line = "text-align: left; vertical-align: top; white-space: nowrap"
    styles = {"th": one_line, "td": one_line} | {f"td.col{i}": "white-space: normal" for i in (1, 2, 8, 9)}
    return style.set_table_styles([{"selector": s, "props": css} for s, css in styles.items()])


MAIN_TABLES = {"S1": "S1.T3", "S2": "S2.T3"}  # the claims of a paper that its whole story hangs on


def did_it_hold(found: pd.DataFrame, paper: str) -> str:
    """Two sentences, Markdown: how many claims of a paper hold here, and its main ones with their numbers."""
    of = found[found.item.str.startswith(paper)]
    rank1 = once(of)
    rank1 = rank1[rank1.verdict != "not measured"]
    if rank1.empty:
        return f"No claim of {paper} was measured."
    out = (of.drop_duplicates(CLAIM).verdict == "not measured").sum()
    main = of[(of.item == MAIN_TABLES[paper]) & (of.metric == "rank1") & (of.protocol == MAIN_PROTOCOL)]
    parts = [
        f"{r.claim} {spread(r.gain, math.nan, 1, '+')}{between(r.low, r.high)}, printed {fixed(r.printed, 1, '+')} "
        f"(**{in_full(r)}**)"
        for r in main.rename(columns={"size": "size_"}).itertuples()
    ]
    return (
        f"Of {len(rank1)} comparisons that {paper} claims and that are measured here, each counted once, the verdicts "
        f"are: **{counted(rank1)}** ({out} more are of systems or data that nobody measures here). "
        f"The main ones in percent points of rank-1: {'; '.join(parts) or 'not measured'}."
    )


def page(notebook: Path) -> Path:
    """An executed notebook as one HTML file beside it: no code, figures inside, nothing loaded from a network.

    What the exporter would load are scripts for formulas and widgets; without them formulas stay as they are written.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_filename(str(notebook))
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
    target = notebook.with_suffix(".html")
    target.write_text(body)
    return target
