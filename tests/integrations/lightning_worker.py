"""One of two ranks under Lightning; the last argument is where training ends."""

import json
import logging
import sys
import warnings
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

from impsamp.integrations.lightning import ImportanceCallback, ImportanceDataModule
from tests.integrations import cases


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = cases.model()
        self.seen = []

    def training_step(self, batch, batch_idx):
        batch, draw = batch
        losses = cases.losses_of(self.net, batch)
        self.seen.append((draw.step, losses.tolist()))
        return {"loss": draw.estimate(losses), "losses": losses}

    def configure_optimizers(self):
        return cases.optimizer_of(self)


def fit(folder, max_steps=-1, **options):
    "A new process would do the same: module, data and trainer begin anew."
    data = cases.images()
    law = cases.law("stale", len(data))
    module = Module()
    saves = ModelCheckpoint(folder, filename="last", every_n_train_steps=7, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        callbacks=[ImportanceCallback(), saves],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        max_steps=max_steps,
    )
    drawn = ImportanceDataModule(data, law, cases.BATCH, steps=cases.STEPS, generator=0)
    trainer.fit(module, drawn, weights_only=False, **options)
    return trainer.global_rank, module.seen


def main(folder):
    _, first = fit(folder, max_steps=7)  # in mid-epoch
    rank, rest = fit(folder, ckpt_path=folder / "last.ckpt")
    (folder / f"rank{rank}.json").write_text(json.dumps(first + rest))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(Path(sys.argv[1]))
