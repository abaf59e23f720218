"""What a thinned step costs beside the plain one, at the same batch.

Forward of all rows, backward of the kept ones.

    python -m benchmarks.thinning

Writes thinning.csv and thinning.md beside this file. An MLP 784-512-512-10 and the first paper's
network, batches of 256, one thread; contenders take turns for 15 rounds, medians of processor time,
ratios to the plain step.
"""

import argparse
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

HERE = Path(__file__).parent
N = 256  # rows of a batch
WARM_UP = 2  # rounds that do not count
KEEP = (0.1, 0.25, 0.5)  # fractions of the rows that are kept
NOTE = " ".join(__doc__.strip().split("\n\n")[-1].splitlines())


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


MODELS = {
    "mlp": (mlp, nn.CrossEntropyLoss(reduction="none")),
    "paper cnn": (PaperCNN, nn.NLLLoss(reduction="none")),
}


def steps(model, loss_fn, x, y, keep):
    """name -> one step without the optimizer.

    Scores are random: only how many rows are kept matters to the time."""
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
        losses = loss_fn(model(x[draw.idx]), y[draw.idx])
        (draw.weight.float() * losses).sum().backward()

    return {
        "plain": plain,
        "thinned, rows skipped": skipping,
        "thinned, dense backward": dense,
        "thinned, second forward": two_passes,
    }


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 28, 28, generator=generator)
    return x, torch.randint(0, 2, (N,), generator=generator)


def measure(name, keep, rounds=15):
    "One row per contender: its milliseconds, and their ratio to the plain step's."
    build, loss_fn = MODELS[name]
    model = build()
    contenders = steps(model, loss_fn, *batch(), keep)
    seconds = {contender: [] for contender in contenders}
    for r in range(WARM_UP + rounds):
        for contender, step in contenders.items():
            model.zero_grad()
            start = time.process_time()
            step()
            if r >= WARM_UP:
                seconds[contender].append(time.process_time() - start)
    base = median(seconds["plain"])
    for contender, times in seconds.items():
        yield {
            "model": name,
            "keep": keep,
            "contender": contender,
            "ms": f"{1e3 * median(times):.2f}",
            "ratio": f"{median(times) / base:.2f}",
        }


def markdown(rows):
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [str(row[field]) for field in head]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows):
    with open(HERE / "thinning.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    page = ["# A thinned step beside the plain one", NOTE, markdown(rows)]
    (HERE / "thinning.md").write_text("\n\n".join(page) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        for keep in KEEP:
            rows += measure(name, keep)
    write(rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
