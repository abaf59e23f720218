"""Rows and gradients that the tests of several modules share."""

import torch

from impsamp.assess.measures import MEASURES


def a_row(**change):
    "One evaluation of a scheme that is better than uniform, with `change`."
    by_measure = {f"{m}_{about}": 0.1 for m in MEASURES for about in ("p", "u")}
    base = dict(
        sample_size=10,
        population=100,
        tv_to_u=0.2,
        log_ratio_se=0.01,
        second_moment_ratio=0.5,
        best_ratio=0.4,
        variance_ratio=0.5,
        best_variance_ratio=0.4,
        speed_gain=0.8,
        ess=0.7,
        between=True,
        max_weight=3.0,
        seconds_norms=1.5,
        seconds_scores=0.5,
        seconds_plain=1.0,
        step=0,
    )
    return by_measure | base | change


def half_squares(out, y):
    return 0.5 * (out - y).square().sum(1)


def gradient_rows(net, x, y, params=None):
    "The gradient of each item's `half_squares`, one backward pass per item: (n, d) float64."
    params = list(net.parameters()) if params is None else params
    rows = []
    for i in range(len(x)):
        loss = half_squares(net(x[i : i + 1]), y[i : i + 1]).sum()
        grads = torch.autograd.grad(loss, params)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows).double()
