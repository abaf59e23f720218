"""Two checkouts side by side in one run: `python -m benchmarks._before OTHER_CHECKOUT`.

Each case is a call of the public interface. The checkouts take turns, a fresh process each; a
process times every case as the fastest of a few repeats. Printed: milliseconds here and there, and
the median over rounds of the ratio here / there with its range. Below 1 this one is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).parents[1]
REPEATS = 5


def best(call, number):
    "Seconds of one call, the fastest of `REPEATS` times `number` calls, after one to warm up."
    call()
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        for _ in range(number):
            call()
        times.append((perf_counter() - start) / number)
    return min(times)


def norm_cases():
    import torch
    from torch import nn

    from impsamp import PaperCNN, grad_norms

    loss = nn.CrossEntropyLoss(reduction="none")
    generator = torch.Generator().manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    mlp.append(nn.Linear(512, 10))
    for name, model, shape, n, number in (
        ("norms, paper's CNN, N = 100", PaperCNN(), (1, 28, 28), 100, 10),
        ("norms, paper's CNN, N = 1000", PaperCNN(), (1, 28, 28), 1000, 2),
        ("norms, MLP, N = 1000", mlp, (784,), 1000, 4),
    ):
        x = torch.randn(n, *shape, generator=generator)
        y = torch.randint(2, (n,), generator=generator)
        yield name, lambda model=model, x=x, y=y: grad_norms(model, loss, x, y), number


def sampler_cases():
    import numpy as np

    from impsamp import AliasTable, IndependentSampling, SumTree, minibatch_probabilities

    rng = np.random.default_rng(0)
    n = 10**6
    scores = rng.pareto(2, n) + 0.1
    p = scores / scores.sum()
    table = AliasTable(p)
    tree = SumTree(scores)
    coins = IndependentSampling(minibatch_probabilities(scores, 64))

    def update_and_draw():
        drawn = tree.draw(64, rng)
        tree.update(drawn.idx, scores[:64])

    yield "64 static draws of 10^6", lambda: table.draw(64, rng), 500
    yield "64 updates and draws of 10^6", update_and_draw, 200
    yield "a random subset of 64 of 10^6", lambda: coins.draw(rng), 300


def linear_cases():
    import numpy as np
    from scipy import sparse

    from impsamp import LogisticRegression, minimize

    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 22)) * rng.gamma(1, size=(50_000, 1))
    y = rng.integers(0, 2, 50_000) * 2 - 1
    wide = sparse.random(20_000, 50_000, density=0.001, format="csr", random_state=0)
    labels = rng.integers(0, 2, 20_000) * 2 - 1
    problems = {
        "50 000 x 22": LogisticRegression(X, y, l2=1e-4),
        "20 000 x 50 000, sparse": LogisticRegression(wide, labels, l2=1e-4),
    }
    options = dict(lr="convex", one_draw=True, max_passes=10, output="last")
    for name, problem in problems.items():
        for method in ("svrg", "saga", "sarah"):
            yield (
                f"{method}, ten passes, {name}",
                lambda problem=problem, method=method: minimize(
                    problem, method, "importance", generator=np.random.default_rng(0), **options
                ),
                1,
            )


CASES = {"norms": norm_cases, "samplers": sampler_cases, "linear": linear_cases}


def measure(kinds):
    "name -> seconds, as a line of JSON."
    cases = [case for kind in kinds for case in CASES[kind]()]
    print(json.dumps({name: best(call, number) for name, call, number in cases}))


def timed(checkout, kinds):
    "What `measure` gives with the package of another checkout."
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", "--cases", *kinds]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="a checkout of another version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.cases)
        return
    if args.other is None or not (args.other / "impsamp").is_dir():
        parser.error("name a folder that holds another version of impsamp")
    other = args.other.resolve()
    rounds = [(timed(HERE, args.cases), timed(other, args.cases)) for _ in range(args.rounds)]
    print(f"{'case':44} {'here':>10} {'there':>10}  ratio [range]")
    for name in rounds[0][0]:
        here = statistics.median(a[name] for a, _ in rounds)
        there = statistics.median(b[name] for _, b in rounds)
        ratios = sorted(a[name] / b[name] for a, b in rounds)
        middle = statistics.median(ratios)
        print(
            f"{name:44} {here * 1e3:8.3f} ms {there * 1e3:8.3f} ms  "
            f"{middle:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )


if __name__ == "__main__":
    main()
