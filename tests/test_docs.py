"""Docstrings of the heart and of data answer: every public function has one, and it names each of its arguments."""

import importlib
import inspect
import re

import pytest
from test_walls import HEART, ROOMS

DOCUMENTED = sorted(HEART | {room for room in ROOMS if room.startswith("data.")})


def public(room):
    """Public functions of a room, and the methods of its public classes, by name."""
    module = importlib.import_module(f"vtlib.{room}")
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for method, call in vars(thing).items():
                if inspect.isfunction(call) and not method.startswith("_"):
                    yield f"{name}.{method}", call


@pytest.mark.parametrize("room", DOCUMENTED)
def test_every_public_function_says_what_it_does_and_names_its_arguments(room):
    silent = [name for name, call in public(room) if not inspect.getdoc(call)]
    assert not silent, f"{room}: {', '.join(silent)} without a docstring"
    for name, call in public(room):
        given = [p for p in inspect.signature(call).parameters if p not in ("self", "forward")]
        said = set(re.findall(r"\w+", inspect.getdoc(call)))
        if "Args:" in inspect.getdoc(call) and "Args, Raises: as" not in inspect.getdoc(call):
            assert not (lacks := [p for p in given if p not in said]), f"{room}.{name} does not say {', '.join(lacks)}"


@pytest.mark.parametrize("room", DOCUMENTED)
def test_no_docstring_names_an_argument_that_is_gone(room):
    for name, call in public(room):
        text = inspect.getdoc(call) or ""
        if "Args:" not in text:
            continue
        section = re.split(r"\n\s*(?:Returns|Raises|Source|Yields|Example|open):", text.split("Args:", 1)[1])[0]
        for part in re.split(r";\s+", section):
            listed = re.match(r"\s*((?:[a-z_0-9]+, )*[a-z_0-9]+)(?: \(|:)", part)
            names = listed[1].split(", ") if listed else []
            known = set(inspect.signature(call).parameters) | {"as"}
            assert set(names) <= known, f"{room}.{name}: {set(names) - known} is no argument of it"
