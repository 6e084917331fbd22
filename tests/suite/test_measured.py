"""README quotes what the suite measured, and nothing else."""

import re
from pathlib import Path

import measured
import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", measured.pages(), ids=lambda path: "/".join(path.parts[-2:]))
def test_a_page_has_the_numbers_that_are_kept(page):
    assert page.read_text() == measured.pages()[page]  # else: python tests/measured.py results/cpu


@pytest.mark.parametrize("name", ["readme.md", "results.md"])
def test_every_measured_number_of_the_results_has_a_place(name):
    """What stands there as a plain number is printed by a paper, or says on what machine it was measured."""
    text = (measured.HERE / name).read_text().split("## Where the numbers come from")[0]
    text = re.sub(r"\{\{.+?\}\}", "", text)
    printed = {f"{v:.2f}" for item in measured.items.ITEMS.values() for v in item.printed.printed.dropna()}
    for line in text.splitlines():
        if line.startswith("|") and re.search(r"\d", line):
            last = [cell.strip() for cell in line.split("|")][-2]
            assert set(re.findall(r"\d+\.\d+", last)) <= printed, line
        elif "AMD EPYC" not in line and "H200" not in line:  # of another machine, said so
            assert {float(n) for n in re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", line)} <= printed_numbers(), line


def test_the_cues_of_the_data_card_are_those_that_are_kept():
    kept = pd.read_csv(measured.HERE / "cues.csv").set_index(["cue", "search"])
    card = (ROOT / "data" / "README.md").read_text()
    first = kept.index.get_level_values("search")[0]
    for cue in ("factors", "parts", "outline", "colour", "histograms"):
        row = kept.loc[cue, first]
        assert f"| {cue} | {row.rank1:.1f} / {row.mAP:.1f} |" in card, cue


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_no_answer_of_a_notebook_has_a_measured_number_written_by_hand(path):
    cells = nbformat.read(path, 4).cells
    start = next(i for i, c in enumerate(cells) if "## Quick questions" in "".join(c.source))
    text = "\n".join("".join(c.source) for c in cells[start:])
    plain = re.sub(r"\{[^{}]*\}", "", text)  # what code computes
    numbers = {float(n) for n in re.findall(r"(?<![\d.,])\d+\.\d+(?![\d.])", plain)}
    assert numbers <= printed_numbers() | {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, path.stem  # margins, weights and shares


def printed_numbers():
    """What the papers print, what they print of a claim, and the sum of S1 Table 3's two gains."""
    numbers = {7.09}
    for item in measured.items.ITEMS.values():
        of = item.printed.set_index(["row", "setting", "metric"]).printed.dropna()
        numbers |= set(of)
        for better, over, *_ in item.claims:
            for (row, *where), value in of.items():
                if row == better and (over, *where) in of.index:
                    numbers.add(round(value - of[(over, *where)], 2))
    return numbers
