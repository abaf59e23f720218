"""Trainer sees the draws and losses of a plain loop, on real text and a tiny random model."""

import warnings
from itertools import islice

import pytest
import torch

from impsamp.errors import InvalidArgument, UnsupportedModel
from impsamp.samplers.one_call import importance_loader
from impsamp.thinning import Thinning, VarianceBound, row_scores, skip_zero_rows
from tests.integrations import cases
from tests.samplers.torchrun import ROOT, reports_of, torchrun

transformers = pytest.importorskip("transformers", reason="transformers is missing")
pytest.importorskip("accelerate", reason="accelerate is missing")

from impsamp.integrations.transformers import (  # noqa: E402
    ImportanceTrainer,
    losses_for,
    token_losses,
)

BATCH = 8
STEPS = 6


def tiny():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return transformers.LlamaForCausalLM(config)


class Recorded(ImportanceTrainer):
    "Keeps the losses of each batch."

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def _estimate(self, draw, losses, output):
        self.seen.append((None if draw is None else draw.step, losses.tolist()))
        return super()._estimate(draw, losses, output)


def trainer_of(folder, net=None, steps=STEPS, data_seed=3, sampling=None, **options):
    options = (
        dict(num_train_epochs=2, save_strategy="no", per_device_train_batch_size=BATCH) | options
    )
    args = transformers.TrainingArguments(
        str(folder),
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        data_seed=data_seed,
        **options,
    )
    net = tiny() if net is None else net
    sampling = {"scheme": "stale"} if sampling is None else sampling(net)
    return Recorded(net, args, train_dataset=cases.pieces(), steps=steps, **sampling)


def trained(trainer, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(**options)
    return trainer.seen


def plain(total, each=1, score=None, backward=None, **options):
    "(step, losses) of a plain loop."
    net = tiny()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = importance_loader(cases.pieces(), "stale", BATCH, steps=STEPS, generator=3, **options)
    go_backward = backward(net) if backward else None
    seen = []
    while len(seen) < total:
        for batch, draw in islice(loader, total - len(seen)):
            with skip_zero_rows():
                logits = net(batch["input_ids"]).logits
            losses = token_losses(logits, batch["labels"], shift=True)
            loader.update(draw, score(losses, logits) if score else losses)
            if go_backward:
                go_backward(losses * (draw.weight * BATCH).to(losses), logits)
            else:
                (draw.estimate(losses) / each).backward()
            seen.append((draw.step, losses.tolist()))
            if len(seen) % each == 0:
                optimizer.step()
                optimizer.zero_grad()
    return seen


@pytest.mark.parametrize(("workers", "each"), [(0, 1), (2, 1), (0, 3), (2, 2)])
def test_the_losses_are_those_of_a_plain_loop(tmp_path, workers, each):
    "Also with workers that fetch ahead, and with several batches to an update."
    lag = 2 * workers + each
    options = dict(dataloader_num_workers=workers, gradient_accumulation_steps=each)
    trainer = trainer_of(tmp_path, sampling=lambda net: dict(scheme="stale", lag=lag), **options)
    assert trained(trainer) == plain(2 * STEPS, each, lag=lag, num_workers=workers)
    assert trainer.loader.batch_sampler.late == 0
    assert trainer.state.global_step == 2 * STEPS // each


def test_a_scheme_hears_other_scores(tmp_path):
    trainer = trainer_of(tmp_path, sampling=lambda net: dict(scheme="stale", scores="output"))
    assert trained(trainer) == plain(2 * STEPS, score=row_scores)


@pytest.mark.parametrize("keep", [0.5, VarianceBound(0.2)], ids=["half", "bound"])
def test_thinned_drawn_batches_train_as_in_a_plain_loop(tmp_path, keep):
    def thinning(net):
        fresh = VarianceBound(0.2) if isinstance(keep, VarianceBound) else keep
        return Thinning(net.parameters(), fresh, generator=5)

    trainer = trainer_of(
        tmp_path, sampling=lambda net: dict(scheme="stale", thinning=thinning(net))
    )
    assert trained(trainer) == plain(2 * STEPS, backward=lambda net: thinning(net).backward)


def test_thinning_alone_keeps_the_batches_of_trainer(tmp_path):
    every = trained(trainer_of(tmp_path, sampling=lambda net: {}, max_steps=1))
    thinned = trainer_of(
        tmp_path,
        sampling=lambda net: dict(thinning=Thinning(net.parameters(), 0.5, generator=0)),
        max_steps=4,
    )
    seen = trained(thinned)
    assert seen[0] == every[0]
    assert [step for step, _ in seen] == [None] * 4
    assert thinned.thinning.ignored == 0


def test_without_scheme_and_thinning_the_gradient_is_that_of_trainer(tmp_path):
    ours = trainer_of(tmp_path, sampling=lambda net: {}, max_steps=3)
    trained(ours)
    theirs = transformers.Trainer(tiny(), ours.args, train_dataset=cases.pieces())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.train()
    for a, b in zip(ours.model.parameters(), theirs.model.parameters()):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("stop", "each"), [(4, 1), (6, 1), (2, 2)])
def test_a_checkpoint_goes_on_with_the_next_draw(tmp_path, stop, each):
    "In mid-epoch and at the end of one; the coins of the thinning go on as well."

    def sampling(net):
        return dict(scheme="stale", thinning=Thinning(net.parameters(), 0.5, generator=5))

    options = dict(save_strategy="steps", save_steps=stop, gradient_accumulation_steps=each)
    wanted = trained(trainer_of(tmp_path / "whole", sampling=sampling, **options))
    first = trainer_of(tmp_path / "part", sampling=sampling, max_steps=stop, **options)
    seen = trained(first)
    again = trainer_of(tmp_path / "part", sampling=sampling, data_seed=9, **options)
    seen += trained(again, resume_from_checkpoint=True)
    assert seen == wanted
    assert again.state.global_step == 2 * STEPS // each


def test_a_checkpoint_without_a_state_is_said(tmp_path):
    options = dict(save_strategy="steps", save_steps=2)
    trained(trainer_of(tmp_path, max_steps=2, **options))
    (tmp_path / "checkpoint-2" / "importance.pt").unlink()
    with pytest.warns(RuntimeWarning, match="begins with nothing remembered"):
        trainer_of(tmp_path, max_steps=3, **options).train(resume_from_checkpoint=True)


def test_two_ranks_see_the_draws_of_one(tmp_path):
    done = torchrun(2, ROOT / "tests" / "integrations" / "transformers_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = plain(2 * STEPS)
    parts = reports_of(tmp_path, 2)
    assert all(cases.steps_of(part) == list(range(2 * STEPS)) for part in parts)
    for (_, one), (_, low), (_, high) in zip(wanted, *parts):
        assert low + high == pytest.approx(one, rel=1e-4)


def test_evaluation_is_trainers_own(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=1)
    trained(trainer)
    seen = len(trainer.seen)
    found = trainer.evaluate(cases.pieces()[:BATCH])["eval_loss"]
    rows = torch.stack([row["input_ids"] for row in cases.pieces()[:BATCH]])
    with torch.no_grad():
        wanted = trainer.model(input_ids=rows, labels=rows).loss.item()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert len(trainer.seen) == seen


# ---- losses per item -------------------------------------------------------------------------
def bert(kind, **options):
    torch.manual_seed(0)
    small = dict(vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    config = transformers.BertConfig(**small, num_attention_heads=2, **options)
    return getattr(transformers, kind)(config).eval()


IDS = torch.arange(24).reshape(3, 8)
TOKENS = IDS % 5
MODELS = {
    "causal": (tiny, IDS),
    "masked": (lambda: bert("BertForMaskedLM"), IDS),
    "tokens": (lambda: bert("BertForTokenClassification", num_labels=5), TOKENS),
    "classes": (lambda: bert("BertForSequenceClassification", num_labels=4), torch.arange(3)),
    "number": (lambda: bert("BertForSequenceClassification", num_labels=1), torch.rand(3)),
    "several": (lambda: bert("BertForSequenceClassification", num_labels=4), torch.eye(3, 4)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_mean_of_the_losses_is_the_loss_of_transformers(kind):
    "Where all items have as many tokens."
    make, labels = MODELS[kind]
    net = make()
    output = net(input_ids=IDS, labels=labels)
    losses = losses_for(net)(output, labels)
    assert losses.shape == (3,)
    assert losses.mean().item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_smoothed_labels_cost_what_torch_says():
    net = bert("BertForSequenceClassification", num_labels=4)
    output = net(input_ids=IDS)
    losses = losses_for(net, label_smoothing=0.1)(output, torch.arange(3))
    cross = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(output.logits, torch.arange(3))
    assert torch.allclose(losses.mean(), cross)


def test_tokens_that_do_not_count_do_not():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, -100, -100], [-100, -100, -100, -100]])
    losses = token_losses(logits, labels)
    assert losses[0] == pytest.approx(
        torch.nn.functional.cross_entropy(logits[0, :2], labels[0, :2]).item()
    )
    assert losses[1] == 0


def test_an_unknown_kind_of_loss_is_refused():
    with pytest.raises(UnsupportedModel, match="give loss_per_item"):
        losses_for(torch.nn.Linear(2, 2))


# ---- refusals --------------------------------------------------------------------------------
def test_one_number_for_a_batch_is_refused(tmp_path):
    def one(output, labels, num_items_in_batch=None):
        return output.loss

    with pytest.raises(InvalidArgument, match="give loss_per_item instead"):
        trainer_of(tmp_path, sampling=lambda net: dict(scheme="stale", compute_loss_func=one))


def test_a_part_of_an_update_at_the_end_of_an_epoch_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=4)
    with pytest.raises(InvalidArgument, match="no multiple of gradient_accumulation_steps"):
        trained(trainer)


def test_without_steps_an_epoch_is_whole_updates(tmp_path):
    trainer = trainer_of(tmp_path, steps=None, gradient_accumulation_steps=4)
    size = len(cases.pieces())
    assert len(trainer.get_train_dataloader()) == 4 * -(-size // (4 * BATCH))


def test_batches_without_labels_are_refused(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.train_dataset = [{"input_ids": row["input_ids"]} for row in cases.pieces()]
    with pytest.raises(InvalidArgument, match="no labels"):
        trained(trainer)
