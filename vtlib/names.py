"""One sentence for a name that is not known; imports nothing heavy, as every command begins with it."""

import difflib


def unknown(kind: str, name: str, known) -> str:
    """One sentence for a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}: {hint}"
