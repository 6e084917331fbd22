"""Confidence intervals of means by the bootstrap: groups, such as people, are drawn with replacement."""

import numpy as np

CHUNK = 2**25  # numbers held in memory at once


def interval(values: np.ndarray, groups, *, draws: int = 10_000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """Percentile bootstrap interval of the K means of values, with whole groups drawn with replacement.

    A group holds values that depend on each other, such as those of the images of one person. Drawn one by one they
    would count as independent, and the interval would be too narrow. groups=range(n) draws each value by itself.
    Args: values (n, K); groups (n,) labels; draws: of the bootstrap; seed; level: of confidence, between 0 and 1.
    Returns: (2, K) low and high ends, in the unit of the values.
    Raises: ValueError if groups are not as many as values, or on draws < 1 or a level outside of 0 to 1.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8.6 and 13.3.
    """
    if len(values) != len(groups) or draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"an interval needs a group for each value, draws and a level between 0 and 1, not {len(values)} values, "
            f"{len(groups)} groups, {draws} draws and level {level}"
        )
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    sums, g, means, n = np.zeros((len(count), values.shape[1])), np.random.default_rng(seed), [], len(count)
    np.add.at(sums, index, values)
    while draws > 0:
        part = min(draws, max(1, CHUNK // n))
        times = g.multinomial(n, np.full(n, 1 / n), size=part).astype(float)  # (part, n): how often each group is drawn
        means.append((times @ sums) / (times @ count)[:, None])
        draws -= part
    return np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)


def bootstrap_mean(values, groups=None, **options) -> tuple[float, float]:
    """interval() of one mean, as (low, high) in the unit of the values.

    Args: values (n,) finite; groups (n,): labels of what is drawn together, such as the person; None draws each value
        by itself; options: draws, seed and level of interval().
    Raises: ValueError if there is no value or one is not finite, and as interval().
    """
    values = np.asarray(values, float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite values, at least one: {len(values)} given, some maybe NaN")
    low, high = interval(values[:, None], np.arange(len(values)) if groups is None else groups, **options)[:, 0]
    return float(low), float(high)
