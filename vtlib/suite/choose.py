"""Check the parameters of a notebook before any work: an error is one sentence that names the parameter.

launch.strict() checks names and types of parameters. This file checks what is in a list, and how large a count is.
"""

import math
from collections.abc import Iterable


def names(parameter: str, wanted: list, known: Iterable[str], *, or_all: bool = False) -> list[str]:
    """Check the names in a list parameter, and return them.

    Args: parameter: its name; wanted: its value; known: the names that there are; or_all: an empty list means all.
    Raises: ValueError for an empty list (without or_all), an unknown name, a name that is there twice or is no text.
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
    """The rows of a table that a list parameter names, in the order of the table. options, Raises: of names()."""
    chosen = names(parameter, wanted, table, **options)
    return {row: group for row, group in table.items() if row in chosen}


def numbers(parameter: str, wanted: list, *, whole: bool = False) -> list:
    """Check the numbers in a list parameter, which are 0 or more; return them as floats, or (whole) as they are.

    Raises: ValueError for an empty list, a number that is there twice, is negative or not finite, or is no number.
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
    """Check the texts in a list parameter, which may be empty. Raises: ValueError for no text, or one that is twice."""
    for value in wanted:
        if not (isinstance(value, str) and value):
            raise ValueError(f"{parameter} has {value!r}, which is no text")
    if wanted:
        check(parameter, wanted, "")
    return wanted


def count(parameter: str, value: int, least: int = 1) -> int:
    """Check a count parameter, and return it. Raises: ValueError where it is below the least."""
    if value < least:
        raise ValueError(f"{parameter}={value} is too few: give {least} or more")
    return value


def check(parameter: str, wanted: list, remedy: str) -> None:
    """Raises: ValueError where a list parameter is empty (its sentence ends with `remedy`), or has an entry twice."""
    if not wanted:
        raise ValueError(f"{parameter} is empty: {remedy}")
    if twice := [value for i, value in enumerate(wanted) if value in wanted[:i]]:
        raise ValueError(f"{parameter} has {twice[0]!r} twice: give it once")


def data(dataset: str, name: str) -> dict[str, str]:
    """The fields `dataset` and `data` of an experiment, from the parameters of these names.

    Args: dataset: layout; name: of the set, empty: the profile's own set.
    Raises: ValueError for an unknown layout, and where the layout is `folder` and no folder is named.
    """
    layouts = ("sysu", "regdb", "folder")
    if dataset not in layouts:
        raise ValueError(f"dataset is {dataset!r}: choose one of {', '.join(layouts)}")
    if dataset == "folder" and not name:
        raise ValueError("dataset is 'folder' and data is empty: name the folder of your images, as data=FOLDER")
    return {"dataset": dataset} | ({"data": name} if name else {})


def fields(overrides: dict, parameters: Iterable[str]) -> dict:
    """Check `overrides`, other fields of an experiment, and return them.

    Args: overrides: values by field; parameters: fields that the notebook has parameters for.
    Raises: ValueError where overrides has one of these.
    """
    if twice := [name for name in overrides if name in parameters]:
        raise ValueError(f"overrides has {twice[0]!r}, which is a parameter of its own: set that one")
    return overrides
