"""A loss, a small network, a comparison, and everything of a model that scoring must not change."""

import torch
import torch.nn as nn

from impsamp.batches import batch_call, batch_items, batch_length
from impsamp.gradnorms.ghost import Catch

# what `method` may be, in the order of the documentation
ALL = ("auto", "ghost", "vmap", "loop")


def squared(out, y):
    return (out.flatten(1) - y).square().sum(1)


def close(found, oracle, bound):
    "Every error is within `bound` of the largest norm."
    worst = (found - oracle).abs().max().item()
    return worst <= bound * oracle.max().item()


def double(x):
    "Integers stay what they are."
    return x.double() if x.is_floating_point() else x


def mlp(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).to(dtype)
    x = torch.randn(5, 6, dtype=dtype)
    y = torch.randn(5, 1, dtype=dtype)
    return model, x, y


def caught(forward, params, *args):
    "(what `forward` returns, the calls caught in it)."
    with Catch(params) as catch:
        out = forward(*args)
    return out, catch.calls


def contents(t):
    return None if t is None else t.numpy().tobytes()


def hooks(model):
    "How many hooks of each kind every module has."
    found = []
    for m in model.modules():
        found += [len(getattr(m, name)) for name in vars(m) if name.endswith("_hooks")]
    return found


def state(model):
    "Everything that could have changed, as bytes and plain values."
    return (
        {name: contents(t) for name, t in model.state_dict().items()},
        [m.training for m in model.modules()],
        [(id(p), p.requires_grad, contents(p.grad)) for p in model.parameters()],
        [id(b) for b in model.buffers()],
        hooks(model),
        sorted(map(str, vars(model))),
        contents(torch.get_rng_state()),
    )


def backward_norms(model, loss_fn, x, y):
    "Oracle that shares nothing with the package: one plain backward pass per sample."
    found = []
    for i in range(batch_length(x)):
        one = slice(i, i + 1)
        model.zero_grad()
        loss_fn(batch_call(model, batch_items(x, one)), batch_items(y, one)).sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        squares = sum(g.to_dense().abs().square().sum() for g in grads)
        found.append(squares.sqrt())
    model.zero_grad()
    return torch.stack(found).double()
