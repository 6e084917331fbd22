"""Cases that the published functions of the systems were run on: inputs drawn from recipes, and what came out."""

import importlib.util

import numpy as np
import torch

FILES = "systems/golden"


def cases(shared, system, function):
    """(case, its inputs as float64 tensors) of one kind of case of a system."""
    spec = importlib.util.spec_from_file_location("golden_inputs", shared / FILES / "inputs.py")
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    for case in inputs.cases(shared / FILES / f"{system}.json"):
        if case["function"] == function:
            yield case, {name: torch.from_numpy(np.asarray(x, float)) for name, x in inputs.arrays(case).items()}


def probe(shape):
    """The weights of the sum whose gradient is stored for maps."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(20261128)).standard_normal(tuple(shape)))


def same(found, stored, tolerance=1e-9):
    """Whether an array, or its fingerprint where only that is stored, is the stored one."""
    x = found.detach().double().numpy() if isinstance(found, torch.Tensor) else np.asarray(found, float)
    if isinstance(stored, dict):
        flat = x.reshape(-1)
        assert list(x.shape) == stored["shape"]
        pairs = [(flat.sum(), stored["sum"]), ((flat**2).sum(), stored["sumsq"])]
        pairs += [((x * probe(x.shape).numpy()).sum(), stored["probe_dot"])]
        pairs += [*zip(flat[:6], stored["first"], strict=False), *zip(flat[-6:], stored["last"], strict=False)]
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=10 * tolerance)
    else:
        np.testing.assert_allclose(x, np.asarray(stored, float), rtol=tolerance, atol=tolerance)


def modality_of(labels, settings):
    """Visible rows first, then thermal, where the case does not say."""
    n = len(labels)
    return torch.tensor(settings.get("modality", [int(i >= n / 2) for i in range(n)]))
