"""What several tests of schemes share: one of each kind, and how a training loop asks."""

import numpy as np

from impsamp.schemes import (
    DynamicPruning,
    Floored,
    GroupMixture,
    LaBER,
    Lipschitz,
    Loss,
    LossRank,
    Mixture,
    MultipleImportance,
    Picks,
    PreconditionedGradNorm,
    Prioritized,
    ReducibleLoss,
    Stale,
    SwitchOn,
    Tempered,
    Uniform,
    UpperBound,
)
from impsamp.theory.convergence import second_moment


def ticking():
    "A clock that says 0, 1, 2, ..."
    return iter(np.arange(1e6)).__next__


# name -> the scheme for n items
ALL = {
    "upper": lambda n: UpperBound(pool_size=4),
    "upper visits": lambda n: UpperBound("visits"),
    "loss": lambda n: Loss(),
    "loss all": lambda n: Loss("all", every=3),
    "rank": lambda n: LossRank(),
    "rank corrected": lambda n: LossRank(corrected=True),
    "prioritized": lambda n: Prioritized(steps=5),
    "lipschitz": lambda n: Lipschitz(np.arange(1, n + 1)),
    "stale": lambda n: Stale(),
    "raw": lambda n: Stale(calibrate=False),
    "preconditioned": lambda n: PreconditionedGradNorm(),
    "half": lambda n: Mixture(Loss(), Uniform()),
    "tempered": lambda n: Tempered(Stale(), 0.5),
    "floored": lambda n: Floored(Loss(), 0.2),
    "switch": lambda n: SwitchOn(Loss(), every=9, trial=2, clock=ticking()),
    "groups": lambda n: GroupMixture(np.arange(n) % 2, [1.0, 2.0], Loss()),
    "groups wanted": lambda n: GroupMixture(np.arange(n) % 2, [1, 2], Loss(), corrected=False),
    "reducible": lambda n: ReducibleLoss(np.linspace(0, 1, n)),
    "large batch": lambda n: LaBER(4, "loss"),
    "multiple": lambda n: MultipleImportance(Loss(), Uniform(), Stale("loss"), shares=[2, 1, 1]),
    "pruning": lambda n: DynamicPruning(),
}
NO_MEMORY = ("upper", "loss all", "preconditioned", "lipschitz", "large batch")
# those that remember what was visited
MEMORY = [k for k in ALL if k not in NO_MEMORY]


def law(scheme, scores=None):
    "Probabilities as a training loop asks for them."
    scheme.due()
    return scheme.probabilities(scores if scheme.scope in ("all", "pool") else None)


def picked(scheme, batch, rng):
    "The items of a step, by the scheme itself where it picks them."
    p = law(scheme)
    if isinstance(scheme, Picks):
        return scheme.pick(batch, rng.random)
    return rng.choice(p.size, batch, p=p)


def uniform_ratio(p, g):
    "H(p)/H(u) for norms `g`."
    return second_moment(p, g) / second_moment(np.full(g.size, 1 / g.size), g)
