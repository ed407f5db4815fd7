"""Golden figures for core/src/statistics: the same questions put to other programs.

    python3 -m venv /some/where && /some/where/bin/pip install scipy==1.17.1 numpy==2.4.6
    /some/where/bin/python core/tests/golden/statistics.py > core/tests/golden/statistics.json

Figures come from scipy and numpy where these have them. What they lack (intervals of shifts, energy splits) is worked out here
from its definition, as plainly as possible and without a look at the Rust code: by listing every arrangement.
"""

import itertools
import json
import math
import sys

import numpy as np
import scipy
from scipy import stats

rng = np.random.default_rng(20261123)


def rounded(values, digits=4):
    return [round(float(value), digits) for value in values]


def mann_whitney(a, b):
    """Both tails, by listing all ways to choose which of the values are b's; scipy says the two-sided one."""
    ranks = stats.rankdata(a + b)
    found = ranks[len(a):].sum()
    sums = [sum(choice) for choice in itertools.combinations(ranks, len(b))]
    low = sum(s <= found + 1e-9 for s in sums) / len(sums)
    high = sum(s >= found - 1e-9 for s in sums) / len(sums)
    statistic = lambda x, y: stats.rankdata(np.concatenate([x, y]))[len(x):].sum()
    test = stats.permutation_test((a, b), statistic, n_resamples=np.inf, vectorized=False)
    assert math.isclose(test.pvalue, min(1, 2 * min(low, high))), (test.pvalue, low, high)
    if len(set(a + b)) == len(a + b):
        exact = stats.mannwhitneyu(b, a, method="exact", alternative="less").pvalue
        assert math.isclose(exact, low), (exact, low)
    return {"a": a, "b": b, "low": low, "high": high, "two_sided": test.pvalue}


def u_distribution(m, n):
    """How likely each number of pairs with the second value larger is, by listing every order."""
    counts = {}
    for choice in itertools.combinations(range(m + n), n):
        u = sum(choice) - n * (n - 1) // 2
        counts[u] = counts.get(u, 0) + 1
    total = math.comb(m + n, n)
    return {u: count / total for u, count in counts.items()}


def shift(a, b):
    differences = sorted(y - x for x in a for y in b)
    chances = u_distribution(len(a), len(b))
    below, out = 0.0, None
    for k in range(len(differences)):
        below += chances.get(k, 0)
        if 1 - 2 * below < 0.95:
            break
        out, confidence = k, 1 - 2 * below
    return {"a": a, "b": b, "value": float(np.median(differences)), "low": differences[out],
            "high": differences[-1 - out], "confidence": confidence}


def paired(differences):
    n = len(differences)
    means = sorted((differences[i] + differences[j]) / 2 for i in range(n) for j in range(i, n))
    sums = [sum(r for r, sign in zip(range(1, n + 1), signs) if sign) for signs in itertools.product([0, 1], repeat=n)]
    out = None
    for k in range(len(means)):
        left = 1 - 2 * sum(s <= k for s in sums) / len(sums)
        if left < 0.95:
            break
        out, confidence = k, left
    test = stats.wilcoxon(differences, method="exact")
    return {"differences": differences, "value": float(np.median(means)), "low": means[out], "high": means[-1 - out],
            "confidence": confidence, "p": test.pvalue}


def exact_by_scipy(a, b):
    # scipy's exact figures take no notice of ties.
    assert len(set(a + b)) == len(a + b)
    return {"a": a, "b": b, "two_sided": stats.mannwhitneyu(b, a, method="exact").pvalue}


def signed_rank_with_ties(differences):
    kept = [d for d in differences if d != 0]
    ranks = stats.rankdata([abs(d) for d in kept])
    found = sum(r for r, d in zip(ranks, kept) if d > 0)
    sums = [sum(r for r, s in zip(ranks, signs) if s) for signs in itertools.product([0, 1], repeat=len(kept))]
    low = sum(s <= found + 1e-9 for s in sums) / len(sums)
    high = sum(s >= found - 1e-9 for s in sums) / len(sums)
    return {"differences": differences, "low": low, "high": high}


def welch(a, b):
    test = stats.ttest_ind(b, a, equal_var=False)
    return {"a": a, "b": b, "t": test.statistic, "freedom": test.df, "p": test.pvalue}


class SplitMix:
    def __init__(self, seed):
        self.state = seed

    def draw(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def below(self, limit):
        return ((self.draw() >> 32) * limit) >> 32


def bootstrap(a, b, seed, resamples):
    random = SplitMix(seed)
    ratios = []
    for _ in range(resamples):
        base = np.median([a[random.below(len(a))] for _ in a])
        ratios.append(np.median([b[random.below(len(b))] for _ in b]) / base)
    low, high = np.percentile(ratios, [2.5, 97.5])
    # Drawn otherwise, scipy's percentile interval has to be about the same.
    statistic = lambda x, y, axis=-1: np.median(y, axis=axis) / np.median(x, axis=axis)
    other = stats.bootstrap((a, b), statistic, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert abs(other.low - low) < 0.3 * (high - low) and abs(other.high - high) < 0.3 * (high - low)
    return {"a": a, "b": b, "seed": seed, "resamples": resamples, "value": float(np.median(b) / np.median(a)),
            "low": float(low), "high": float(high)}


def energy(x, y):
    mean = lambda pairs: sum(abs(p - q) for p, q in pairs) / len(pairs)
    within = lambda values: mean(list(itertools.combinations(values, 2)))
    between = mean(list(itertools.product(x, y)))
    m, n = len(x), len(y)
    return m * n / (m + n) * (2 * between - within(x) - within(y))


def candidates(values, start, end, weak, segment):
    splits = range(start + segment, end - segment + 1)
    if not splits:
        return []
    at = max(splits, key=lambda at: energy(values[start:at], values[at:end]))
    if stats.ttest_ind(values[start:at], values[at:end], equal_var=False).pvalue > weak:
        return []
    return candidates(values, start, at, weak, segment) + [at] + candidates(values, at, end, weak, segment)


def change_points(values, window=50, weak=0.01, strong=0.001, segment=5, least=0.02):
    found, start = set(), 0
    while True:
        end = min(start + window, len(values))
        found |= set(candidates(values, start, end, weak, segment))
        if end == len(values):
            break
        start += window // 2
    points = sorted(found)
    while True:
        edges = [0] + points + [len(values)]
        changes = []
        for i, at in enumerate(points):
            before, after = values[edges[i]:at], values[at:edges[i + 2]]
            p = stats.ttest_ind(before, after, equal_var=False).pvalue
            changes.append({"at": at, "before": float(np.mean(before)), "after": float(np.mean(after)), "p": p,
                            "short": min(len(before), len(after)) < segment})
        failing = [c for c in changes
                   if c["short"] or c["p"] > strong or abs(c["after"] - c["before"]) < least]
        if not failing:
            return [{key: c[key] for key in ("at", "before", "after", "p")} for c in changes]
        points.remove(max(failing, key=lambda c: c["p"])["at"])


def series(*stretches):
    return rounded(np.concatenate([rng.normal(level, noise, n) for n, level, noise in stretches]), 5)


depression_a = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
depression_b = [1.15, 0.88, 0.90, 0.74, 1.21]
hamilton = rounded(np.subtract([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
                               [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]), 3)
rates = lambda n, level, noise, digits=4: rounded(rng.normal(level, noise, n), digits)
p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
quantile_values = rates(13, 40, 3)

golden = {
    "made_with": {"scipy": scipy.__version__, "numpy": np.__version__},
    "quantiles": [{"values": quantile_values, "p": p, "value": float(np.percentile(quantile_values, 100 * p))}
                  for p in (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)],
    # The k-th smallest and largest of n enclose the median with the probability that a fair coin lands between.
    "median_ranks": [{"n": n, "low": int(k), "high": int(n + 1 - k), "confidence": float(1 - 2 * stats.binom.cdf(k - 1, n, 0.5))}
                     for n in (6, 7, 8, 10, 15, 20, 30, 60)
                     for k in [max(k for k in range(1, n) if 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= 0.95)]],
    "mann_whitney": [
        mann_whitney(depression_a, depression_b),
        mann_whitney(rates(6, 100, 1), rates(6, 103, 1)),
        mann_whitney(rates(9, 50, 2), rates(7, 50, 2)),
        mann_whitney([1.0, 2.0, 2.0, 3.0, 3.0, 3.0], [2.0, 3.0, 4.0, 4.0, 5.0]),
        mann_whitney([1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    ],
    "mann_whitney_large": [
        {"a": a, "b": b, "two_sided": stats.mannwhitneyu(b, a, method="asymptotic").pvalue}
        for a, b in [(rates(60, 100, 2), rates(55, 101, 2)), ([float(v) for v in rng.integers(0, 9, 70)], [float(v) for v in rng.integers(1, 9, 52)])]
    ],
    "mann_whitney_exact": [
        exact_by_scipy(rates(20, 100, 1, 9), rates(20, 101, 1, 9)),
        exact_by_scipy(rates(30, 100, 1, 9), rates(30, 100.4, 1, 9)),
        exact_by_scipy(rates(50, 10, 1, 9), rates(50, 10.2, 1, 9)),
    ],
    "shift": [shift(rates(m, 100, 1), rates(n, 102, 1.5)) for m, n in [(6, 6), (10, 10), (8, 11)]],
    "paired": [paired(hamilton), paired(rates(6, 0.5, 1)), paired(rates(14, 0.3, 1))],
    "signed_rank_with_ties": [signed_rank_with_ties([1.0, -1.0, 2.0, 2.0, 3.0, 0.0, -2.0, 5.0]),
                              signed_rank_with_ties([0.0, 0.0, 1.0])],
    "welch": [welch(rates(6, 100, 1), rates(9, 102, 4)), welch(rates(2, 1, 0.1), rates(3, 1, 0.2)), welch(rates(30, 5, 1), rates(30, 5.1, 1))],
    "benjamini_hochberg": {"p": p_values, "adjusted": [float(q) for q in stats.false_discovery_control(p_values)]},
    "detectable": [{"sd": sd, "m": m, "n": n, "value": float(sd * math.sqrt(1 / m + 1 / n) * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)))}
                   for sd, m, n in [(0.01, 5, 5), (0.01, 10, 10), (0.004, 6, 20)]],
    "bootstrap": [bootstrap(rates(10, 100, 1), rates(10, 103, 1), 42, 2000), bootstrap(rates(7, 20, 1), rates(12, 19, 0.5), 7, 1000)],
    "change_points": [
        {"values": values, "changes": change_points(values)}
        for values in [
            series((30, 0, 0.01), (30, 0.03, 0.01)),
            series((60, 3, 0.01)),
            series((40, 0, 0.01), (20, -0.05, 0.01), (60, 0.01, 0.01), (30, 0.05, 0.02)),
            series((12, 0, 0.005), (6, 0.1, 0.005), (12, 0, 0.005)),
            series((33, 0, 0.01), (33, 0.04, 0.01), (33, 0.1, 0.01), (33, 0.05, 0.01)),
            series((50, 0, 0.01), (50, 0.015, 0.01)),
        ]
    ],
}
json.dump(golden, sys.stdout, indent=1)
print()
