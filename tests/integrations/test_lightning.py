"""Lightning sees the draws and losses of a plain loop: epochs, resumes, two processes."""

import warnings

import pytest
import torch

from impsamp.errors import InvalidArgument
from tests.integrations import cases
from tests.samplers.torchrun import ROOT, reports_of, torchrun

lightning = pytest.importorskip("lightning", reason="lightning is missing")

from impsamp.integrations.lightning import ImportanceCallback, ImportanceDataModule  # noqa: E402

QUIET = dict(
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
)


class Module(lightning.LightningModule):
    def __init__(self, returns="losses", skips=0):
        super().__init__()
        self.net = cases.model()
        self.returns = returns
        self.skips = skips
        self.seen = []

    def training_step(self, batch, batch_idx):
        batch, draw = batch
        losses = cases.losses_of(self.net, batch)
        self.seen.append((draw.step, losses.tolist()))
        if self.skips and draw.step % self.skips == 1:
            return None
        return {"loss": draw.estimate(losses), self.returns: losses}

    def configure_optimizers(self):
        return cases.optimizer_of(self)


def data_of(law, **options):
    data = cases.images()
    options = dict(steps=cases.STEPS, generator=0) | options
    return ImportanceDataModule(data, cases.law(law, len(data)), cases.BATCH, **options)


def fit(module, data, ckpt_path=None, callbacks=(), **options):
    options = QUIET | dict(enable_checkpointing=bool(callbacks)) | options
    trainer = lightning.Trainer(callbacks=[ImportanceCallback(), *callbacks], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=False)
    return module.seen


@pytest.mark.parametrize(("law", "workers"), [("stale", 0), ("stale", 2), ("shuffle", 0), ("p", 0)])
def test_whole_epochs_have_the_losses_of_a_plain_loop(law, workers):
    options = dict(num_workers=workers, lag="auto")
    seen = fit(Module(), data_of(law, **options), max_epochs=3)
    assert seen == cases.plain(cases.loader_of(law, **options), 3 * cases.STEPS)


def test_accumulated_batches_have_the_losses_of_a_plain_loop():
    seen = fit(Module(), data_of("stale"), max_epochs=2, accumulate_grad_batches=3)
    wanted = cases.plain(cases.loader_of("stale"), 2 * cases.STEPS, each=3)
    assert cases.steps_of(seen) == cases.steps_of(wanted)
    ours = torch.tensor([losses for _, losses in seen])
    theirs = torch.tensor([losses for _, losses in wanted])
    assert torch.allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("law", ["stale", "shuffle", "p"])
@pytest.mark.parametrize("stop", [cases.STEPS - 5, cases.STEPS])
def test_a_checkpoint_goes_on_with_the_next_draw(tmp_path, law, stop):
    "In mid-epoch, and at the end of one, where Lightning itself asks no loader for its state."
    wanted = cases.plain(cases.loader_of(law), 2 * cases.STEPS)
    saves = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="last", every_n_train_steps=stop, save_top_k=-1
    )
    first = fit(Module(), data_of(law), callbacks=[saves], max_steps=stop, max_epochs=2)
    again = Module()
    data = data_of(law, generator=9)
    seen = first + fit(again, data, tmp_path / "last.ckpt", max_epochs=2)
    assert seen == wanted


def test_two_processes_see_the_draws_of_one_and_resume(tmp_path):
    done = torchrun(2, ROOT / "tests" / "integrations" / "lightning_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = cases.plain(cases.loader_of("stale"), 2 * cases.STEPS)
    parts = reports_of(tmp_path, 2)
    assert all(cases.steps_of(part) == list(range(24)) for part in parts)
    for (step, one), (_, low), (_, high) in zip(wanted, *parts):
        assert low + high == pytest.approx(one, rel=1e-4, abs=1e-6), step


def test_a_skipped_step_is_over_and_teaches_nothing():
    module = Module(skips=3)
    data = data_of("stale")
    fit(module, data, max_epochs=1)
    assert cases.steps_of(module.seen) == list(range(cases.STEPS))
    loader = data.train_dataloader()
    assert loader.trust.draws == cases.BATCH * cases.STEPS * 2 // 3
    assert loader.state_dict()["step"] == cases.STEPS - 1


def test_a_step_without_losses_is_refused():
    with pytest.raises(InvalidArgument, match="one loss per item"):
        fit(Module(returns="nothing"), data_of("stale"), max_epochs=1)


def test_scores_are_reported_in_place_of_losses():
    data = data_of("stale")
    fit(Module(returns="scores"), data, max_epochs=1)
    assert data.train_dataloader().trust.draws == cases.STEPS * cases.BATCH


def test_a_plain_loader_is_refused():
    loader = torch.utils.data.DataLoader(cases.images(), batch_size=4)
    with pytest.raises(InvalidArgument, match="use_distributed_sampler=False"):
        fit(Module(), loader, max_epochs=1)


def test_a_module_without_data_says_so():
    with pytest.raises(InvalidArgument, match=r"self\.dataset in setup"):
        ImportanceDataModule(None).train_dataloader()


def test_trust_is_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is missing")
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    options = QUIET | dict(logger=logger, max_epochs=1, log_every_n_steps=1)
    callback = ImportanceCallback(log_every=4)
    trainer = lightning.Trainer(callbacks=[callback], enable_checkpointing=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), data_of("stale"))
    logged = trainer.logged_metrics
    assert logged["draws/second_moment_over_uniform"] == pytest.approx(
        callback.loader.trust.against_uniform, rel=1e-5
    )
