"""The fragments of the README on schemes, samplers and thinning run, each as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

README = Path(__file__).parents[2] / "README.md"

OWN_SCHEME = """
import numpy as np
from impsamp import Scheme

class Clipped(Scheme):
    "p proportional to min(norm, 3 x median norm): no outlier takes the whole batch."
    needs = "norm"  # which score
    scope = "all"   # of whom

    def shape(self, norms):
        return np.minimum(norms, 3 * np.median(norms))
"""

SAMPLER = """
from impsamp import importance_loader, output_scores

loader = importance_loader(dataset, "stale", 16, steps=50, generator=0)  # your loader
for (x, y), draw in loader:
    output = model(x)
    losses = loss_fn(output, y)                          # loss_fn: reduction="none"
    loader.update(draw, output_scores(losses, output))   # new: what the visited items are worth now
    optimizer.zero_grad()
    draw.estimate(losses).backward()                     # instead of losses.mean().backward()
    optimizer.step()
"""

THINNING = """
from impsamp import Thinning, VarianceBound, skip_zero_rows

thinning = Thinning(model.parameters(), keep=VarianceBound(0.1), generator=0)
for x, y in loader:                                      # any loader, any augmentation
    with skip_zero_rows():                               # optional: fewer rows cost less time
        output = model(x)
    losses = loss_fn(output, y)
    optimizer.zero_grad()
    thinning.backward(losses, output)                    # instead of losses.mean().backward()
    optimizer.step()
"""


def task():
    """What the fragments find already there.

    A model, its optimizer, a per-item loss, a data set with its loader, a generator."""
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
    dataset = TensorDataset(x, (x[:, 0] > 0).long())
    return dict(
        model=model,
        dataset=dataset,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        loader=DataLoader(dataset, 16, shuffle=True),
        generator=np.random.default_rng(0),
        DataLoader=DataLoader,
    )


def loss_of(names):
    x, y = names["dataset"].tensors
    with torch.no_grad():
        return names["loss_fn"](names["model"](x), y).mean().item()


@pytest.mark.parametrize("fragment", [SAMPLER, THINNING], ids=["sampler", "thinning"])
def test_a_changed_loop_runs_and_learns(fragment):
    names = task()
    before = loss_of(names)
    for _ in range(5):
        exec(fragment, names)
    assert loss_of(names) < 0.5 * before


def test_a_scheme_of_your_own_in_ten_lines_trains_and_resumes():
    from impsamp.training import train

    assert len(OWN_SCHEME.strip().splitlines()) <= 10
    names = task()
    exec(OWN_SCHEME, names)
    scheme = names["Clipped"]()
    train(
        names["model"],
        names["loss_fn"],
        *names["dataset"].tensors,
        names["optimizer"],
        scheme,
        batch=8,
        steps=30,
        seed=0,
    )
    p = scheme.probabilities()
    assert np.isclose(p.sum(), 1)
    assert np.ptp(p) > 0
    again = names["Clipped"]().init(64)
    again.load_state_dict(scheme.state_dict())
    assert (again.probabilities() == scheme.probabilities()).all()


@pytest.mark.skipif(not README.exists(), reason="no README.md here (installed package)")
@pytest.mark.parametrize(
    "fragment", [OWN_SCHEME, SAMPLER, THINNING], ids=["own scheme", "sampler", "thinning"]
)
def test_the_readme_shows_exactly_these_fragments(fragment):
    assert fragment.strip() in README.read_text()


def prose_of(text):
    "The words of a page apart from code, tables and addresses."
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for line in plain.splitlines() if not line.startswith("|")]
    return re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)).split()


@pytest.mark.skipif(not README.exists(), reason="no README.md here (installed package)")
def test_the_front_page_is_read_in_minutes():
    text = README.read_text()
    assert len(prose_of(text)) <= 700
    assert text.index("![") < text.index("## ")  # a picture before the first section
