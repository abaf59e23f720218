"""States of schemes and samplers: whether two are the same, and what a spoilt one looks like."""

import torch


def same(a, b):
    "Whether two states hold the same, NaN where NaN is."
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return a == b or (a != a and b != b)


def _spoilt_tensor(x):
    if len(x) == 0:
        return
    negative = x.clone()
    negative[0] = -1
    yield "negative", negative
    yield "short", x[1:].clone()
    if x.is_floating_point():
        spoilt = x.clone()
        spoilt[0] = float("nan")
        yield "nan", spoilt


def _spoilt_leaf(x):
    if isinstance(x, torch.Tensor):
        yield from _spoilt_tensor(x)
    elif isinstance(x, str):
        yield "another", x + "another"
    elif isinstance(x, bool):
        yield "word", "x"
    elif isinstance(x, (int, float)):
        yield "negative", -5
        yield "word", "x"
        yield "nan", float("nan")


def spoilt(state):
    "(path, copy of `state` in which one thing is wrong) for every thing in it."
    if isinstance(state, dict):
        for key in state:
            yield f"{key} missing", {k: v for k, v in state.items() if k != key}
            for path, value in spoilt(state[key]):
                yield f"{key} {path}", {**state, key: value}
    elif isinstance(state, (list, tuple)):
        for k, entry in enumerate(state):
            for path, value in spoilt(entry):
                yield f"{k} {path}", [*state[:k], value, *state[k + 1 :]]
    else:
        yield from _spoilt_leaf(state)
