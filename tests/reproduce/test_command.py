"""certify and `impsamp assess module:Scheme`: training with every scope, and the command a user types."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import certify
from impsamp.errors import Diverged, InvalidArgument
from impsamp.reproduce.command import main_assess
from impsamp.schemes import GradNorm, Loss, Mixture, Stale, Uniform, UpperBound


def squares(out, y):
    return 0.5 * (out - y).square().sum(1)


def task(seed=0, n=24):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.5
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return net, (x, x.sum(1, keepdim=True))


class Remembers:
    "A foreign scheme with scope visits."

    needs, scope = "loss", "visits"

    def init(self, n):
        self.seen = np.ones(n)

    def probabilities(self, scores=None):
        return self.seen / self.seen.sum()

    def update(self, idx, scores):
        self.seen[idx] = np.asarray(scores) + 1e-3


@pytest.mark.parametrize(
    "scheme",
    [
        Uniform(),
        GradNorm(),
        GradNorm(every=4),
        Mixture(GradNorm(), Uniform()),
        Loss(),
        UpperBound(pool_size=8),
        Stale(),
        Remembers(),
    ],
)
def test_every_scope_trains_and_is_judged(scheme):
    net, data = task()
    start = squares(net(data[0]), data[1]).mean().item()
    a = certify(scheme, net, squares, data, lr=0.05, batch=4, steps=40, every=8)
    assert [r["step"] for r in a.rows] == [0, 8, 16, 24, 32, 40] and squares(
        net(data[0]), data[1]
    ).mean().item() < start
    assert "Better than uniform" in a.page(batch=4)


def test_probabilities_in_use_between_refreshes_are_judged():
    net, data = task()
    fresh, late = (
        certify(GradNorm(every=k), net, squares, data, lr=0.05, batch=4, steps=3, every=3).rows[-1]
        for k in (1, 100)
    )
    assert fresh["speed_gain"] == pytest.approx(1) and late["speed_gain"] < 1 - 1e-6


def test_equal_arguments_equal_runs_and_the_scheme_is_not_touched():
    runs, scheme = [], Loss()
    for _ in range(2):
        net, data = task()
        a = certify(scheme, net, squares, data, lr=0.05, steps=20, every=5)
        runs.append(
            (
                [r["second_moment_ratio"] for r in a.rows],
                [p.detach().numpy().tobytes() for p in net.parameters()],
            )
        )
    assert runs[0] == runs[1] and scheme.n is None


def test_divergence_and_bad_arguments():
    net, data = task()
    with pytest.raises(Diverged, match="learning rate"):
        certify(Uniform(), net, squares, data, lr=1e200, steps=50)
    for bad in (dict(batch=0), dict(steps=0), dict(every=0), dict(sample_size=1)):
        with pytest.raises(InvalidArgument):
            certify(Uniform(), task()[0], squares, data, **bad)
    with pytest.raises(InvalidArgument, match="Lipschitz"):
        certify(np.full(24, 1 / 24), task()[0], squares, data)


MINE = """
import numpy as np
class Root:
    "Ten lines: p proportional to the square root of the norm."
    needs = "norm"
    def init(self, n): self.n = n
    def probabilities(self, scores=None):
        s = np.sqrt(np.asarray(scores, dtype=float))
        return s / s.sum()
class Needy:
    def __init__(self, a): pass
class Unlucky:
    def __init__(self): raise ValueError("no luck")
class Forgetful(Root):
    def probabilities(self): return self.n
class Lost(Root): scope = "everything"
p = np.full(100, .01)
instance = Root()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_schemes_of_today.py").write_text(MINE)
    (tmp_path / "crash_of_today.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["Root", "instance"])
def test_the_command_certifies_a_scheme_of_ones_own(here, capsys, name):
    assert (
        main_assess(
            [
                f"my_schemes_of_today:{name}",
                "--steps",
                "30",
                "--every",
                "10",
                "--out",
                "certificate",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "# Assessment of my_schemes_of_today:" + name in out and "**Yes**" in out
    assert (here / "certificate" / "page.md").read_text().strip() == out.strip()
    assert len((here / "certificate" / "table.csv").read_text().splitlines()) == 5
    assert all(
        (here / "certificate" / f"{f}.png").stat().st_size > 1000
        for f in ("histograms", "evolution")
    )


@pytest.mark.parametrize(
    "spec,words",
    [
        ("my_schemes_of_today:Needy", "name an instance instead"),
        ("my_schemes_of_today:Roof", "did you mean 'Root'"),
        ("no_such_module:X", "cannot be imported"),
        ("just_a_name", "module:Scheme"),
        ("crash_of_today:X", "fails when it is imported: ZeroDivisionError"),
        ("my_schemes_of_today:Unlucky", "fails when it is made: ValueError: no luck"),
        ("my_schemes_of_today.py:Root", "as Python imports it, my_schemes_of_today:Root"),
        ("./sub/mine.py:Root", "sub.mine:Root"),
        ("my_schemes_of_today:Forgetful", "Forgetful was stopped by TypeError"),
        ("my_schemes_of_today:Lost", "unknown scope 'everything'"),
        ("my_schemes_of_today:p", "impsamp.schemes.Lipschitz(p)"),
        ("my_schemes_of_today:np", "got module"),
    ],
)
def test_the_command_refuses_with_a_reason(here, capsys, spec, words):
    assert main_assess([spec]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "options,words",
    [
        (["--lr", "nan"], "lr must be finite"),
        (["--lr", "0"], "above 0"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--lr", "1e9", "--every", "10"], "lower the learning rate"),
        (["--out", "my_schemes_of_today.py"], "name a folder"),
    ],
)
def test_the_command_refuses_bad_options_in_a_sentence(here, capsys, options, words):
    assert main_assess(["impsamp.schemes:GradNorm", "--steps", "40", *options]) == 1
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err


def test_the_command_refuses_bad_numbers(capsys):
    assert main_assess(["impsamp.schemes:Uniform", "--task", "cifar"]) == 1
    assert "unknown task" in capsys.readouterr().err
    assert main_assess(["impsamp.schemes:Uniform", "--sample-size", "1000", "--steps", "2"]) == 1
    assert "at most 100" in capsys.readouterr().err
