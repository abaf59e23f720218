"""The loop of the README under torchdata, accelerate and Lightning, where they are installed.

Draws equal to those of a plain DataLoader wherever the loader runs no further ahead."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from impsamp.samplers import ImportanceBatchSampler, WithDraw, importance_loader
from impsamp.schemes import Stale
from tests.samplers.helpers import through_a_file
from tests.samplers.loops import STEPS, Loop, N, key, losses_of, run, sampler_of

TOTAL = 2 * STEPS + 3
ONCE_EACH = list(range(TOTAL))


def plain(law, lag=None):
    "What a plain DataLoader and loop see."
    return run(sampler_of(law, lag=lag), TOTAL, Loop())


def report(sampler, draw, x):
    "What a loop says of a batch; without scores only that it was trained on."
    if sampler._stream.source.changes:
        sampler.update(draw, losses_of(draw, x.cpu()))
    else:
        sampler.consumed(draw)


def data():
    return WithDraw(TensorDataset(torch.arange(float(N))))


# ---- torchdata -------------------------------------------------------------------------------
def stateful(sampler, **options):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is missing")
    return torchdata.StatefulDataLoader(data(), batch_sampler=sampler, **options)


def train_stateful(sampler, loader, total, seen):
    while len(seen) < total:
        for (x,), draw in loader:
            seen.append(key(draw))
            report(sampler, draw, x)
            if len(seen) == total:
                break
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [3, STEPS - 1, STEPS, STEPS + 4])
@pytest.mark.parametrize("law", ["stale", "tree", "half", "p", "shuffle", "subset"])
def test_a_stateful_loader_resumes_in_mid_epoch_by_its_own_state(law, stop):
    wanted = plain(law)
    sampler = sampler_of(law)
    loader = stateful(sampler)
    seen = train_stateful(sampler, loader, stop, [])
    state = through_a_file(loader.state_dict())
    again = sampler_of(law, seed=9)
    resumed = stateful(again)
    resumed.load_state_dict(state)
    assert train_stateful(again, resumed, TOTAL, seen) == wanted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("law", ["stale", "shuffle"])
def test_a_stateful_loader_with_workers_resumes_with_the_next_batch(law):
    "Reports of batches in flight at its snapshot are lost; no batch comes twice or not at all."
    sampler = sampler_of(law)
    loader = stateful(sampler, num_workers=2)
    seen = train_stateful(sampler, loader, 3, [])
    state = through_a_file(loader.state_dict())
    again = sampler_of(law, seed=9)
    resumed = stateful(again, num_workers=2)
    resumed.load_state_dict(state)
    train_stateful(again, resumed, TOTAL, seen)
    assert [step for step, *_ in seen] == ONCE_EACH
    if law == "shuffle":
        assert seen == plain(law)


# ---- accelerate ------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("law", ["stale", "tree", "p", "shuffle"])
def test_accelerate_prepares_the_loader(law, workers):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is missing")
    accelerator = accelerate.Accelerator(cpu=True)
    lag = 1 + 2 * workers
    sampler = sampler_of(law, lag=lag)
    loader = accelerator.prepare(DataLoader(data(), batch_sampler=sampler, num_workers=workers))
    seen = []
    while len(seen) < TOTAL:
        for (x,), draw in loader:
            seen.append(key(draw))
            report(sampler, draw, x)
            if len(seen) in (5, TOTAL):
                break
    assert seen == plain(law, lag)
    assert sampler.late == 0


@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_the_readme_under_accelerate_needs_no_lag():
    accelerate = pytest.importorskip("accelerate", reason="accelerate is missing")
    accelerator = accelerate.Accelerator(cpu=True)
    torch.manual_seed(0)
    sampler = sampler_of("stale")
    model, loader = accelerator.prepare(nn.Linear(1, 1), DataLoader(data(), batch_sampler=sampler))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=1e-4))
    steps = []
    for _ in range(2):
        for (x,), draw in loader:
            losses = (model(x[:, None])[:, 0] - x).square()
            optimizer.zero_grad()
            accelerator.backward(draw.estimate(losses))
            optimizer.step()
            sampler.update(draw, losses.detach())
            steps.append(draw.step)
    assert steps == list(range(2 * STEPS))
    assert sampler.late == 0


@pytest.mark.filterwarnings("ignore")
def test_accelerate_rebuilds_the_loader_of_one_call_and_reports_still_arrive():
    accelerate = pytest.importorskip("accelerate", reason="accelerate is missing")
    loader = one_call()
    prepared = accelerate.Accelerator(cpu=True).prepare(loader)
    assert prepared is not loader
    seen = []
    while len(seen) < TOTAL:
        for (x,), draw in prepared:
            seen.append(key(draw))
            loader.update(draw, losses_of(draw, x))
            if len(seen) in (5, TOTAL):
                break
    assert seen == plain("stale", lag=1)


def one_call(seed=0):
    law = Stale("loss")
    data = TensorDataset(torch.arange(float(N)))
    return importance_loader(data, law, 4, steps=STEPS, generator=seed, lag=1)


# ---- Lightning -------------------------------------------------------------------------------
def fitted(sampler, workers=0, **options):
    "The draws that a LightningModule was trained on."
    loader = DataLoader(data(), batch_sampler=sampler, num_workers=workers)
    return fit(loader, sampler, **options)[0]


def fit(loader, sampler, checkpoint=None, **options):
    "The draws that a LightningModule was trained on by `loader`, and its trainer."
    lightning = pytest.importorskip("lightning", reason="lightning is missing")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch, _):
            (x,), draw = batch
            seen.append(key(draw))
            report(sampler, draw, x)
            return draw.estimate((self.layer(x[:, None])[:, 0] - x).square())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), loader, ckpt_path=checkpoint)
    return seen, trainer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("law", ["stale", "tree", "shuffle"])
def test_lightning_fits_whole_epochs_and_stops_in_the_middle_of_one(law, workers):
    lag = 1 + 2 * workers
    sampler = sampler_of(law, lag=lag)
    assert fitted(sampler, workers, max_steps=TOTAL) == plain(law, lag)
    assert sampler.late == 0


@pytest.mark.parametrize("law", ["stale", "p"])
def test_lightning_leaves_epochs_early_by_limit_train_batches(law):
    sampler = sampler_of(law)
    seen = fitted(sampler, limit_train_batches=3, max_epochs=4)
    steps = [step for step, *_ in seen]
    assert len(steps) == 12
    assert len(set(steps)) == 12
    if law == "stale":
        assert steps == list(range(12))


def test_lightning_trains_with_a_sampler_that_takes_its_seed_from_torch():
    torch.manual_seed(3)
    sampler = ImportanceBatchSampler(Stale("loss").init(N), 4, steps=STEPS)
    seen = fitted(sampler, max_epochs=1)
    assert np.isfinite([w for _, _, weight, _ in seen for w in weight]).all()


def test_a_checkpoint_of_lightning_holds_the_loader_of_one_call(tmp_path):
    loader = one_call()
    seen, trainer = fit(loader, loader.batch_sampler, max_steps=STEPS + 2)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    again = one_call(seed=9)
    more, _ = fit(again, again.batch_sampler, tmp_path / "saved.ckpt", max_steps=TOTAL)
    assert seen + more == plain("stale", lag=1)
    assert again.seed == loader.seed
