"""Wrappers come off, compiled losses are run as written, batches are counted and cut loose."""

import numpy as np
import pytest
import torch
import torch.nn as nn

from impsamp.errors import InvalidShape
from impsamp.gradnorms import (
    grad_norms,
    loss_scores,
    output_gradient_norms,
    per_sample_grads,
    upper_bound_scores,
)
from impsamp.gradnorms.inputs import check_batch, device_of, uncompiled, unwrap
from tests.gradnorms.helpers import backward_norms, close, mlp, squared

SCORES = (grad_norms, loss_scores, output_gradient_norms, upper_bound_scores, per_sample_grads)


def test_wrappers_come_off():
    inner = nn.Linear(1, 1)
    assert unwrap(nn.DataParallel(nn.DataParallel(inner))) is inner
    assert unwrap(inner) is inner


def test_a_compiled_loss_is_run_as_written():
    model, x, y = mlp()
    compiled = torch.compile(squared, backend="eager")
    assert uncompiled(compiled) is squared
    assert torch.equal(grad_norms(model, compiled, x, y), grad_norms(model, squared, x, y))
    module = torch.compile(nn.CrossEntropyLoss(reduction="none"), backend="eager")
    assert type(uncompiled(module)) is nn.CrossEntropyLoss


def test_a_checked_batch_has_no_graph_and_keeps_its_structure():
    x = torch.ones(3, 2, requires_grad=True)
    found, targets = check_batch({"x": x, "flag": True}, (x,))
    assert not found["x"].requires_grad
    assert found["flag"] is True
    assert isinstance(targets, tuple)
    assert device_of(found).type == "cpu"
    with torch.inference_mode():
        (made,) = check_batch((torch.ones(3),), torch.ones(3))[0]
    assert not made.is_inference()


@pytest.mark.parametrize("score", SCORES)
def test_what_is_no_batch_is_refused_by_every_score(score):
    model, x, y = mlp()
    with pytest.raises(InvalidShape, match="as_tensor"):
        score(model, squared, x.numpy(), y)
    with pytest.raises(InvalidShape, match="as_tensor"):
        score(model, squared, x, np.zeros(5))
    with pytest.raises(InvalidShape, match="5 samples but y has 3"):
        score(model, squared, x, y[:3])


@pytest.mark.parametrize("score", SCORES)
def test_an_empty_batch_has_empty_scores(score):
    model, x, y = mlp()
    found = score(model, squared, x[:0], {"y": y[:0]})
    if score is per_sample_grads:
        assert found["0.weight"].shape == (0, 9, 6)
    else:
        assert found.shape == (0,)
        assert found.dtype == torch.float64
    methods = ("auto", "ghost", "vmap", "loop")
    assert all(len(grad_norms(model, squared, x[:0], y[:0], method=m)) == 0 for m in methods)


# structures


class Masked(nn.Module):
    "As a tokenizer feeds it: words and which of them count; returns a dict."

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(11, 4)
        self.l = nn.Linear(4, 3)

    def forward(self, ids, mask, scale=1.0):
        h = self.l(self.e(ids)) * mask[..., None]
        return {"logits": scale * h.sum(1), "hidden": (h,), "none": None}


def soft(out, y):
    return (out["logits"] - y["target"]).square().sum(1) * y["weight"]


def masked(dtype=torch.float64):
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (5, 6))
    mask = (torch.rand(5, 6) > 0.3).to(dtype)
    y = {"target": torch.randn(5, 3, dtype=dtype), "weight": torch.rand(5, dtype=dtype)}
    return Masked().to(dtype), ids, mask, y


@pytest.mark.parametrize("method", ["auto", "ghost", "vmap", "loop"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_dicts_and_tuples_everywhere(method, chunk):
    model, ids, mask, y = masked()

    oracle = backward_norms(model, soft, (ids, mask), y)
    for x in (
        {"ids": ids, "mask": mask},
        (ids, mask),
        [ids, mask],
        {"ids": ids, "mask": mask, "scale": 1.0},
    ):
        found = grad_norms(model, soft, x, y, method=method, chunk_size=chunk)
        assert close(found, oracle, 1e-12)


def test_cheap_scores_of_dicts():
    model, ids, mask, y = masked()
    x = {"ids": ids, "mask": mask}
    out = model(**x)["logits"]
    expected = 2 * (out - y["target"]).norm(dim=1) * y["weight"]
    assert torch.allclose(output_gradient_norms(model, soft, x, y), expected)
    assert torch.allclose(loss_scores(model, soft, x, y), soft({"logits": out}, y))
    (g,) = per_sample_grads(model, soft, x, y)["l.bias"][:1]
    assert torch.allclose(g, 2 * y["weight"][0] * mask[0].sum() * (out - y["target"])[0])


def test_output_gradients_count_every_tensor_of_the_output():
    "Outputs a = w x and b = 2 w x, loss a^2 + b: gradients 2 a and 1."
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    x = torch.tensor([[3.0], [0.5]])

    def both(m):
        return lambda out, y: (out[0].square() + out[1])[:, 0]

    class Pair(nn.Module):
        def forward(self, x):
            return model(x), 2 * model(x)

    found = output_gradient_norms(Pair(), both(model), x, x)
    assert torch.allclose(found, torch.tensor([37.0, 2.0], dtype=torch.float64).sqrt())


class OwnLoss(nn.Module):
    "Computes its own losses from labels."

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x, labels):
        return nn.functional.cross_entropy(self.l(x), labels, reduction="none")


def test_a_model_that_computes_its_own_losses():
    torch.manual_seed(0)
    model = OwnLoss().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    batch = {"x": x, "labels": labels}

    def own(losses, y):
        return losses

    oracle = backward_norms(model, own, batch, labels)
    assert close(grad_norms(model, own, batch, labels), oracle, 1e-12)
