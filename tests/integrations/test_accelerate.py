"""Accelerate sees the draws and losses of a plain loop, alone and on two ranks."""

from itertools import islice

import pytest
import torch

from impsamp.errors import InvalidArgument
from tests.integrations import cases
from tests.samplers.torchrun import ROOT, reports_of, torchrun

accelerate = pytest.importorskip("accelerate", reason="accelerate is missing")

from impsamp.integrations.accelerate import prepare_loader  # noqa: E402


def train(accelerator, net, optimizer, loader, total):
    "(step, losses) of `total` batches."
    seen = []
    while len(seen) < total:
        for batch, draw in islice(loader, total - len(seen)):
            with accelerator.accumulate(net):
                losses = cases.losses_of(net, batch)
                accelerator.backward(draw.estimate(losses))
                optimizer.step()
                optimizer.zero_grad()
            loader.update(draw, losses)
            seen.append((draw.step, losses.tolist()))
    return seen


def start(law, each=1, **options):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=each)
    net = cases.model()
    net, optimizer = accelerator.prepare(net, cases.optimizer_of(net))
    loader = prepare_loader(accelerator, cases.loader_of(law, **options))
    return accelerator, net, optimizer, loader


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize(("law", "workers"), [("stale", 0), ("stale", 2), ("shuffle", 0), ("p", 0)])
def test_the_losses_are_those_of_a_plain_loop(law, workers, each):
    options = dict(num_workers=workers, lag="auto")
    seen = train(*start(law, each, **options), 2 * cases.STEPS)
    assert seen == cases.plain(cases.loader_of(law, **options), 2 * cases.STEPS, each)


@pytest.mark.parametrize("law", ["stale", "shuffle", "p"])
def test_save_state_goes_on_in_mid_epoch(tmp_path, law):
    wanted = cases.plain(cases.loader_of(law, lag=1), 2 * cases.STEPS)
    first = start(law, lag=1)
    seen = train(*first, 5)
    first[0].save_state(tmp_path)
    again = start(law, lag=1, generator=9)
    again[0].load_state(tmp_path)
    assert seen + train(*again, 2 * cases.STEPS - 5) == wanted


def test_two_ranks_see_the_draws_of_one(tmp_path):
    script = ROOT / "tests" / "integrations" / "accelerate_worker.py"
    done = torchrun(2, script, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = cases.plain(cases.loader_of("stale", lag=1), 2 * cases.STEPS)
    parts = [report["seen"] for report in reports_of(tmp_path, 2)]
    assert all(cases.steps_of(part) == list(range(24)) for part in parts)
    for (_, one), (_, low), (_, high) in zip(wanted, *parts):
        assert low + high == pytest.approx(one, rel=1e-4, abs=1e-6)
    refused = [report["refused"] for report in reports_of(tmp_path, 2)]
    assert all("build it after Accelerator()" in words for words in refused)


def test_what_the_loader_can_the_prepared_one_can():
    *_, loader = start("stale")
    assert len(loader) == cases.STEPS
    assert loader.seed == loader.loader.seed
    assert loader.trust.draws == 0
    assert loader.state_dict()["step"] == -1
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = loader.nothing_of_the_kind


def test_another_loader_is_refused():
    accelerator = accelerate.Accelerator(cpu=True)
    plain = torch.utils.data.DataLoader(cases.images(), batch_size=4)
    with pytest.raises(InvalidArgument, match=r"accelerator\.prepare is for it"):
        prepare_loader(accelerator, plain)
