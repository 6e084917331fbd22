"""The lists and counts that a notebook is asked for, checked before any work: one sentence that names the parameter.

launch.strict() checks names and types of parameters; what is in a list, and how large a count may be, is checked here.
"""

import math
from collections.abc import Iterable


def names(parameter: str, wanted: list, known: Iterable[str], *, or_all: bool = False) -> list[str]:
    """The names in a list parameter, each one of `known`; `or_all`: an empty list takes all of them.

    Raises: ValueError on an empty list (without or_all), an unknown name, a name given twice, or no text.
    """
    known = list(known)
    if or_all and not wanted:
        return known
    check(parameter, wanted, f"name at least one of {', '.join(known)}")
    for name in wanted:
        if not isinstance(name, str):
            raise ValueError(f"{parameter} has {name!r}, which is no text: name some of {', '.join(known)}")
        if name not in known:
            raise ValueError(f"{parameter} has {name!r}, which is unknown: name some of {', '.join(known)}")
    return wanted


def rows(parameter: str, wanted: list, table: dict[str, list], **options) -> dict[str, list]:
    """The rows of a table that a list parameter names, as names() checks them, in the order of the table."""
    chosen = names(parameter, wanted, table, **options)
    return {row: group for row, group in table.items() if row in chosen}


def numbers(parameter: str, wanted: list, *, whole: bool = False) -> list:
    """The numbers in a list parameter, 0 or more, as floats, or as whole numbers.

    Raises: ValueError on an empty list, a number given twice, or one that is negative, not finite, or no number.
    """
    kind = "whole number" if whole else "number"
    check(parameter, wanted, f"give at least one {kind}")
    for value in wanted:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ValueError(f"{parameter} has {value!r}, which is no {kind}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{parameter} has {value!r}: give numbers of 0 or more")
    return wanted if whole else [float(value) for value in wanted]


def texts(parameter: str, wanted: list) -> list[str]:
    """The texts in a list parameter, which may be empty. Raises: ValueError on anything else, or one given twice."""
    for value in wanted:
        if not (isinstance(value, str) and value):
            raise ValueError(f"{parameter} has {value!r}, which is no text")
    if wanted:
        check(parameter, wanted, "")
    return wanted


def count(parameter: str, value: int, least: int = 1) -> int:
    """A count parameter. Raises: ValueError below the least."""
    if value < least:
        raise ValueError(f"{parameter}={value} is too few: give {least} or more")
    return value


def check(parameter: str, wanted: list, instead: str) -> None:
    """Raise ValueError where a list parameter is empty, or has an entry twice."""
    if not wanted:
        raise ValueError(f"{parameter} is empty: {instead}")
    if twice := [value for i, value in enumerate(wanted) if value in wanted[:i]]:
        raise ValueError(f"{parameter} has {twice[0]!r} twice: give it once")


def data(dataset: str, name: str) -> dict[str, str]:
    """The fields `dataset` and `data` of an experiment from the two parameters; an empty name takes the profile's set.

    Raises: ValueError on an unknown layout, and where the layout is `folder` and no folder is named.
    """
    known = ("sysu", "regdb", "folder")
    if dataset not in known:
        raise ValueError(f"dataset is {dataset!r}: choose one of {', '.join(known)}")
    if dataset == "folder" and not name:
        raise ValueError("dataset is 'folder' and data is empty: name the folder of your images, as data=FOLDER")
    return {"dataset": dataset} | ({"data": name} if name else {})


def fields(overrides: dict, parameters: Iterable[str]) -> dict:
    """The overrides of an experiment's fields. Raises: ValueError where one of them is a parameter of its own."""
    if twice := [name for name in overrides if name in parameters]:
        raise ValueError(f"overrides has {twice[0]!r}, which is a parameter of its own: set that one")
    return overrides
