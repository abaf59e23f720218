"""A linear model on data that outgrow one machine: local SVRG with importance sampling on Dask.

    python examples/dask_linear.py                                  two workers on this machine
    python examples/dask_linear.py --scheduler tcp://host:8786      a cluster that runs already

The rows lie in partitions, one task each. A round has two steps:

1. every partition sends the gradient of its rows at the common x; their mean is the anchor g;
2. every partition makes SVRG steps from x, x <- x - lr ((s_i - h_i) / (n_k p_i) a_i + g + l2 x),
   with p_i proportional to L_i, and their mean, weighted by rows, is the next x.

A partition makes as many steps as its share of all L_i, so that over the whole data an item is
drawn in proportion to its L_i. At the minimum g + l2 x is zero and every step stands still, so the
answer is that of one process, to whatever tolerance is asked for. A round that does not lower the
gradient norm is taken back and its steps are halved: with few steps a round is a gradient step.

A task depends on its partition, x, g and a seed, and on nothing else, and `load` can be called
again: whatever is lost with a worker is computed again elsewhere and comes out the same.
"""

import argparse
from dataclasses import dataclass, field

import numpy as np

from impsamp.linear import make_plan
from impsamp.linear.blocks import block_drawer
from impsamp.linear.engines import make_engine
from impsamp.problems import LogisticRegression
from impsamp.samplers import SerialSampling


class Part(LogisticRegression):
    "The rows of one partition, which may hold one class only."

    def _labels(self, y):
        return np.asarray(y, dtype=np.float64)


# --- what a partition does ---
def part_of(load, k, l2):
    "Partition k, from `load(k)` -> (X, y in {-1, +1})."
    X, y = load(k)
    return Part(X, y, l2=l2, fit_intercept=True)


def sizes(part):
    "(rows, coordinates, sum of L_i)."
    return part.n, part.d, float(part.L.sum())


def slope_sum(part, x):
    "Sum of the rows' gradients at x, without the regulariser, (d,)."
    return part.combine(part.slopes(x))


def local_steps(part, x, g, steps, seed):
    "x after so many SVRG steps on this partition's rows, with the anchor g (d,) of all rows."
    law = SerialSampling(part.lifted_smoothness / part.lifted_smoothness.sum())
    plan = make_plan(part, "svrg", law, lr="convex")
    engine = make_engine(part, plan, x)
    engine.anchor()
    engine.g[:] = g
    draw = block_drawer(law, plan.p)
    engine.advance(draw(np.random.default_rng(seed), steps), None)
    return np.array(engine.x, dtype=np.float64)


# --- what the caller does ---
@dataclass
class Outcome:
    "x (d,), the intercept last; gradient norms, one for each round; whether tol was met."

    x: np.ndarray
    norms: list = field(default_factory=list)
    converged: bool = False


class Cluster:
    "The partitions on a cluster, and the two things that are asked of all of them."

    def __init__(self, client, load, partitions, l2):
        self.client = client
        self.l2 = l2
        self.parts = [client.submit(part_of, load, k, l2) for k in range(partitions)]
        rows = self.all(sizes)
        self.n = np.array([n for n, d, L in rows])
        self.d = rows[0][1]
        L = np.array([L for n, d, L in rows])
        self.share = L / L.sum()

    def all(self, work, *common, each=()):
        "[work(part, *common, *own) for every part], in their order."
        own = list(zip(*each)) or [()] * len(self.parts)
        tasks = [self.client.submit(work, p, *common, *o) for p, o in zip(self.parts, own)]
        return self.client.gather(tasks)

    def anchor(self, x):
        "Mean gradient of all rows at x, without the regulariser."
        return np.sum(self.all(slope_sum, x), axis=0) / self.n.sum()

    def ridge(self, x):
        "Gradient of the regulariser, which leaves the intercept alone."
        return np.append(self.l2 * x[:-1], 0.0)

    def mean_of_local_steps(self, x, g, passes, seeds):
        steps = np.maximum(1, passes * self.n.sum() * self.share).astype(int)
        ends = self.all(local_steps, x, g, each=(steps.tolist(), seeds))
        return np.average(ends, axis=0, weights=self.n)


def fit(client, load, partitions, *, l2, tol=1e-10, rounds=200, passes=1.0, seed=0, watch=None):
    """Minimise the mean logistic loss of all rows + l2/2 ||w||^2; returns `Outcome`.

    client: of dask.distributed. load(k): rows and labels of partition k, the same at every call.
    passes: local steps of a round, over the number of rows. watch(round, gradient norm)."""
    cluster = Cluster(client, load, partitions, l2)
    best = x = np.zeros(cluster.d)
    out = Outcome(x)
    least = np.inf
    for r in range(rounds):
        g = cluster.anchor(x)
        norm = float(np.linalg.norm(g + cluster.ridge(x)))
        out.norms.append(norm)
        if watch:
            watch(r, norm)
        if norm < least:
            best = x
            least = norm
            anchor = g
        else:
            passes /= 2
        if least <= tol:
            break
        seeds = [[seed, r, k] for k in range(partitions)]
        x = cluster.mean_of_local_steps(best, anchor, passes, seeds)
    out.x = best
    out.converged = least <= tol
    return out


# --- made data, where yours would be read ---
def made(k, rows=5000, features=20):
    "Partition k: rows of very unequal norm, as if read from file k."
    rng = np.random.default_rng([7, k])
    X = rng.normal(size=(rows, features)) * np.exp(rng.normal(size=(rows, 1)))
    margins = X @ np.linspace(-1, 1, features) + 0.5 + rng.logistic(size=rows)
    return X, np.where(margins > 0, 1.0, -1.0)


def main():
    from distributed import Client

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scheduler", help="address of a running scheduler; none: two workers")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--l2", type=float, default=1e-3)
    args = parser.parse_args()
    own = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(args.scheduler) if args.scheduler else Client(**own) as client:

        def show(r, norm):
            print(f"round {r}: gradient norm {norm:.3e}", flush=True)

        out = fit(client, made, args.partitions, l2=args.l2, watch=show)
    print("converged" if out.converged else "not converged", np.round(out.x, 4))


if __name__ == "__main__":
    main()
