"""Training loops that do what real ones do: look, break, skip, overflow, run ahead."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from impsamp.samplers import (
    ImportanceBatchSampler,
    IndependentSampling,
    SumTree,
    WithDraw,
)
from impsamp.schemes import (
    DynamicPruning,
    GradNorm,
    GroupMixture,
    Loss,
    Mixture,
    MultipleImportance,
    Prioritized,
    Shuffle,
    Stale,
    SwitchOn,
    Uniform,
)

N = 40
BATCH = 4
STEPS = 8  # an epoch


def switched():
    replay = [(6 + 9 * k, k % 2 == 0, 1.0, 1.0, 1.0) for k in range(99)]
    return SwitchOn(Stale("norm"), every=9, trial=3, replay=replay)


# name -> a law whose probabilities change with reports
CHANGING = {
    "tree": lambda: SumTree(1.0 + np.arange(N)),
    "loss": lambda: Loss().init(N),
    "stale": lambda: Stale("loss").init(N),
    "prioritized": lambda: Prioritized(steps=30).init(N),
    "half": lambda: Mixture(Stale("loss"), Uniform()).init(N),
    "switch": lambda: switched().init(N),
    "norms": lambda: Mixture(GradNorm(), Uniform()).init(N),
    "groups": lambda: GroupMixture(np.arange(N) % 3, [1, 2, 3], Loss(), corrected=False).init(N),
    "multiple": lambda: MultipleImportance(Stale("loss"), Uniform()).init(N),
    "pruning": lambda: DynamicPruning().init(N),
}
STATIC = {
    "p": lambda: (1 + np.arange(N)) / (1 + np.arange(N)).sum(),
    "subset": lambda: IndependentSampling(np.full(N, 0.1)),
    "shuffle": lambda: Shuffle().init(N),
}


def sampler_of(law, *, seed=0, steps=STEPS, **options):
    size = None if law == "subset" else BATCH
    made = {**CHANGING, **STATIC}[law]()
    s = ImportanceBatchSampler(made, size, steps=steps, generator=seed, **options)
    if law == "norms":
        s.update(np.arange(N), 1.0 + np.arange(N))  # first scores of all items
    return s


class OneAhead:
    "A loader that holds one batch back, to know which is the last: as accelerate and Lightning do."

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        batches = iter(self.loader)
        held = next(batches)
        for batch in batches:
            yield held
            held = batch
        yield held


def loader_of(sampler, kind="plain"):
    data = WithDraw(TensorDataset(torch.arange(float(N))))
    options = {}
    if "workers" in kind:
        options = dict(num_workers=2, prefetch_factor=2, persistent_workers="persistent" in kind)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, **options)
    return OneAhead(loader) if kind == "one ahead" else loader


@dataclass
class Loop:
    "What happens beside training. Steps are those of the draws."

    looks: int = 0  # batches looked at before training, each by an iterator of its own
    breaks: set = field(default_factory=set)  # steps after which an epoch is left
    skips: set = field(default_factory=set)  # steps without a report
    spoils: set = field(default_factory=set)  # steps whose losses are not finite
    form: str = "draw"  # what a report names: "draw" or "items"

    def calm(self):
        "The same losses and reports without looks and breaks."
        return Loop(skips=self.skips, spoils=self.spoils, form=self.form)


def losses_of(draw, x):
    "Made-up losses that depend on all that was drawn before."
    return 1 + (draw.weight * (1 + x)).abs() * (1 + draw.step % 7)


def report(sampler, draw, losses, loop):
    if draw.step in loop.skips or not sampler._stream.source.changes:
        return
    if draw.step in loop.spoils:
        losses = losses * float("nan")
    sampler.update(draw if loop.form == "draw" else draw.idx, losses)


def key(draw):
    return draw.step, draw.idx.tolist(), draw.weight.tolist(), draw.prob.tolist()


def run(sampler, total, loop, kind="plain", each=lambda draw: None):
    "What training saw, `total` batches of it."
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = loader_of(sampler, kind)
        for _ in range(loop.looks):
            next(iter(loader))
        while len(seen) < total:
            for (x,), draw in loader:
                seen.append(key(draw))
                report(sampler, draw, losses_of(draw, x), loop)
                each(draw)
                if draw.step in loop.breaks or len(seen) == total:
                    break
    return seen
