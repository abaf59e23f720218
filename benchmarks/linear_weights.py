"""Weights with a Pareto tail: SAGA by importance, SAGA by uniform draws, scikit-learn's saga.

python -m benchmarks.linear_weights [--seeds 20]

Per seed: 2 000 rows of 10 normal features, labels of a noisy half-space, weights of a Pareto law
with shape 1 (no mean), l2 = 1e-4, at most 100 passes for each. gap: (F - F*)/|F*| of the weighted
objective in float64, F* from Newton's method to 1e-13. Of each method the share of seeds within
1e-6 with Wilson's 95% interval, and the gap's quantiles; of ours minus theirs the sign test."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from impsamp import VRClassifier
from impsamp.linear.composites import Composite
from impsamp.linear.second_order import Progress, newton

HERE = Path(__file__).parent
L2 = 1e-4
PASSES = 100


def contenders(weight, seed):
    "name -> estimator, each with the same number of passes."
    C = 1 / (L2 * weight.sum())
    ours = dict(l2=L2, max_iter=PASSES, random_state=seed)
    return {
        "impsamp SAGA, importance": VRClassifier("saga", "importance", **ours),
        "impsamp SAGA, uniform": VRClassifier("saga", "uniform", **ours),
        "scikit-learn saga": LogisticRegression(
            C=C, solver="saga", tol=1e-10, max_iter=PASSES, random_state=seed
        ),
    }


def gaps(seed):
    "One row for each contender on the data of a seed."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2000, 10))
    y = np.where(X[:, 0] + rng.normal(size=2000) > 0, 1.0, -1.0)
    weight = rng.pareto(1.0, size=2000) + 1e-3
    f = Composite(X, y, weight, loss="logistic", l2=L2)
    best = newton(f, f.start, Progress(tol=1e-13, max_iter=60)).value
    rows = []
    for name, model in contenders(weight, seed).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y, sample_weight=weight)
        theta = np.r_[model.coef_[0], model.intercept_][None]
        gap = max(f.value(f.scores(theta), theta) - best, 0.0) / best
        passes = int(np.max(model.n_iter_))
        rows.append(dict(seed=seed, method=name, gap=gap, passes=passes))
    return rows


def page(table):
    ours = table[table.method == "impsamp SAGA, importance"].set_index("seed").gap
    lines = ["# Skewed weights", "", " ".join(__doc__.split("\n\n")[2].split()), ""]
    lines.append(
        "| method | within 1e-6 | 95% interval | median gap | largest gap | median passes |"
    )
    lines.append("|---|---|---|---|---|---|")
    for name, part in table.groupby("method"):
        inside = int((part.gap <= 1e-6).sum())
        low, high = binomtest(inside, len(part)).proportion_ci(method="wilson")
        cells = f"{inside} of {len(part)} | {low:.2f} to {high:.2f} | {part.gap.median():.1e}"
        lines.append(f"| {name} | {cells} | {part.gap.max():.1e} | {part.passes.median():.0f} |")
    lines.append("")
    for name in ("impsamp SAGA, uniform", "scikit-learn saga"):
        other = table[table.method == name].set_index("seed").gap
        wins = int((ours < other).sum())
        p = binomtest(wins, len(ours), alternative="greater").pvalue
        text = f"Importance is nearer than {name} on {wins} of {len(ours)} seeds"
        lines.append(f"{text} (sign test, one-sided p = {p:.1e}).")
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    table = pd.DataFrame([row for seed in range(args.seeds) for row in gaps(seed)])
    table.to_csv(HERE / "linear_weights.csv", index=False, float_format="%.4g")
    (HERE / "linear_weights.md").write_text(page(table))
    print(page(table))


if __name__ == "__main__":
    main()
