"""What a notebook is asked for: every fault is one sentence that names the parameter."""

import pytest

from vtlib.suite import choose

KNOWN = ["Baseline", "DPAN+CMDC"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ([], "rows is empty: name at least one of Baseline, DPAN+CMDC"),
        (["mine"], "rows has 'mine', which is unknown: name some of Baseline, DPAN+CMDC"),
        (["Baseline", "mine"], "rows has 'mine', which is unknown: name some of Baseline, DPAN+CMDC"),
        (["Baseline", "Baseline"], "rows has 'Baseline' twice: give it once"),
        ([3], "rows has 3, which is no text: name some of Baseline, DPAN+CMDC"),
        ([["Baseline"]], "rows has ['Baseline'], which is no text: name some of Baseline, DPAN+CMDC"),
    ],
)
def test_names(wanted, sentence):
    with pytest.raises(ValueError) as error:
        choose.names("rows", wanted, KNOWN)
    assert str(error.value) == sentence


def test_names_that_are_known_stay_in_order():
    assert choose.names("rows", KNOWN[::-1], KNOWN) == KNOWN[::-1]
    assert choose.names("rows", [], iter(KNOWN), or_all=True) == KNOWN
    assert list(choose.rows("rows", KNOWN[::-1], {"Baseline": [1], "DPAN+CMDC": [2], "more": []})) == KNOWN
    with pytest.raises(ValueError, match="rows has 'x', which is unknown"):
        choose.names("rows", ["x"], KNOWN, or_all=True)


@pytest.mark.parametrize(
    ("wanted", "whole", "sentence"),
    [
        ([], False, "lambdas is empty: give at least one number"),
        ([1.0, 1], False, "lambdas has 1 twice: give it once"),
        ([-1.0], False, "lambdas has -1.0: give numbers of 0 or more"),
        ([float("nan")], False, "lambdas has nan: give numbers of 0 or more"),
        (["3"], False, "lambdas has '3', which is no number"),
        ([True], False, "lambdas has True, which is no number"),
        ([0.5], True, "lambdas has 0.5, which is no whole number"),
        ([-1], True, "lambdas has -1: give numbers of 0 or more"),
    ],
)
def test_numbers(wanted, whole, sentence):
    with pytest.raises(ValueError) as error:
        choose.numbers("lambdas", wanted, whole=whole)
    assert str(error.value) == sentence


def test_sound_numbers_counts_and_texts():
    assert choose.numbers("lambdas", [0, 3]) == [0.0, 3.0] and choose.numbers("seeds", [0, 1], whole=True) == [0, 1]
    assert choose.count("people", 2, 2) == 2 and choose.texts("levers", []) == [] == choose.texts("levers", [])
    with pytest.raises(ValueError, match="people=0 is too few: give 2 or more"):
        choose.count("people", 0, 2)
    with pytest.raises(ValueError, match="levers has 3, which is no text"):
        choose.texts("levers", [3])
    with pytest.raises(ValueError, match=r"levers has 'yaw=0\.0' twice"):
        choose.texts("levers", ["yaw=0.0", "yaw=0.0"])


def test_a_folder_needs_a_name():
    assert choose.data("sysu", "") == {"dataset": "sysu"}
    assert choose.data("folder", "mine") == {"dataset": "folder", "data": "mine"}
    with pytest.raises(ValueError, match="dataset is 'folder' and data is empty: name the folder"):
        choose.data("folder", "")
    with pytest.raises(ValueError, match="dataset is 'sisu': choose one of sysu, regdb, folder"):
        choose.data("sisu", "")


def test_an_override_that_is_a_parameter_of_its_own_is_refused():
    assert choose.fields({"lr": 0.1}, ("seed",)) == {"lr": 0.1}
    with pytest.raises(ValueError, match="overrides has 'seed', which is a parameter of its own: set that one"):
        choose.fields({"lr": 0.1, "seed": 3}, ("profile", "seed"))
