"""What a thinned step costs beside the plain one, at the same batch: forward of all rows, backward of the kept ones.

    python -m benchmarks.thinning

Writes thinning.csv and thinning.md beside this file. An MLP 784-512-512-10 and the first paper's network, batches of 256, one thread; contenders take turns for 15 rounds, medians of processor time, ratios to the plain step.
"""

import csv
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from impsamp.problems import PaperCNN
from impsamp.thinning import Thinning, thin
from impsamp.thinning.row_skipping import skip_zero_rows

HERE, N = Path(__file__).parent, 256
MODELS = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        ),
        nn.CrossEntropyLoss(reduction="none"),
    ),
    "paper cnn": (PaperCNN, nn.NLLLoss(reduction="none")),
}


def steps(model, loss_fn, x, y, keep):
    "name -> one step without the optimizer. Scores are random: only how many rows are kept matters to the time."
    rng = np.random.default_rng(0)
    scores = rng.random(N)
    helper = Thinning(model.parameters(), keep, generator=rng)

    def plain():
        loss_fn(model(x), y).mean().backward()

    def skipping():
        with skip_zero_rows():
            losses = loss_fn(model(x), y)
        helper.backward(losses, scores=scores)

    def dense():
        helper.backward(loss_fn(model(x), y), scores=scores)

    def two_passes():
        with torch.no_grad():
            loss_fn(model(x), y)
        draw = thin(scores, keep, generator=rng)
        (draw.weight.float() * loss_fn(model(x[draw.idx]), y[draw.idx])).sum().backward()

    return {
        "plain": plain,
        "thinned, rows skipped": skipping,
        "thinned, dense backward": dense,
        "thinned, second forward": two_passes,
    }


def measure(name, keep, rounds=15):
    build, loss_fn = MODELS[name]
    g = torch.Generator().manual_seed(0)
    model, x, y = (
        build(),
        torch.randn(N, 1, 28, 28, generator=g),
        torch.randint(0, 2, (N,), generator=g),
    )
    contenders = steps(model, loss_fn, x, y, keep)
    seconds = {k: [] for k in contenders}
    for r in range(rounds + 2):
        for k, step in contenders.items():
            model.zero_grad()
            start = time.process_time()
            step()
            if r >= 2:
                seconds[k].append(time.process_time() - start)
    base = median(seconds["plain"])
    return [
        {
            "model": name,
            "keep": keep,
            "contender": k,
            "ms": f"{1e3 * median(v):.2f}",
            "ratio": f"{median(v) / base:.2f}",
        }
        for k, v in seconds.items()
    ]


def main():
    torch.set_num_threads(1)
    rows = [row for name in MODELS for keep in (0.1, 0.25, 0.5) for row in measure(name, keep)]
    with open(HERE / "thinning.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    head = list(rows[0])
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *["| " + " | ".join(str(r[k]) for k in head) + " |" for r in rows],
    ]
    (HERE / "thinning.md").write_text(
        "# A thinned step beside the plain one\n\n"
        + __doc__.split("\n\n")[2].strip()
        + "\n\n"
        + "\n".join(lines)
        + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
