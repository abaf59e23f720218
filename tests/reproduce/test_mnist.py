"""Thinned runs and runs with remembered scores: measured exactly, repeated to the last bit."""

import numpy as np
import pytest
import torch

from impsamp.errors import UnknownName
from impsamp.reproduce.mnist import stale_run, thinning_run

SMALL = dict(data="embedded", optimizer="momentum", seed=0, epochs=2, batch=30, width=8)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_nothing_is_thinned_in_a_full_run():
    run = thinning_run(arm="full", measure_every=2, **SMALL)
    assert list(run["step"]) == [1, 3, 5, 7] and (run["kept"] == 1).all()
    assert (run["added"] == 0).all() and (run["signal"] > 0).all()
    assert list(run["epoch_step"]) == [4, 8]
    assert list(run["rows"]) == [100, 200], "each row of each epoch, the short last batch too"


def test_rows_at_random_are_fewer_and_add_what_the_closed_form_says():
    run = thinning_run(arm="uniform 0.5", measure_every=1, **SMALL)
    assert 0.3 < run["kept"].mean() < 0.7 and run["rows"][-1] < 200
    assert (run["added"] > 0).all()


def test_a_bound_keeps_what_it_needs():
    run = thinning_run(arm="eps 0.5", measure_every=4, **(SMALL | {"epochs": 30}))
    assert run["kept"][-1] < 1 and (run["added"] >= 0).all()
    assert len(run["loss"]) == 30 and run["loss"][-1] < run["loss"][0]


def test_remembered_scores_leave_uniform_after_a_visit_and_drop_the_last_batch():
    run = stale_run(arm="calibrated", measured=50, looks=3, **SMALL)
    assert list(run["epoch_step"]) == [3, 6] and list(run["step"]) == [0, 1, 2, 3, 4, 5]
    assert run["gain"][0] == pytest.approx(1) and run["gain"][-1] != pytest.approx(1)
    assert (run["ideal"] >= run["gain"] - 1e-12).all()


def test_shuffled_runs_have_no_gain():
    assert stale_run(arm="shuffle", measured=50, looks=1, **SMALL)["gain"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("run", "arm", "options"),
    [
        (thinning_run, "eps 0.5", dict(measure_every=3)),
        (stale_run, "raw", dict(measured=20, looks=1)),
    ],
)
def test_runs_repeat_and_leave_the_global_generator_alone(run, arm, options):
    torch.manual_seed(3)
    first = run(arm=arm, **options, **SMALL)
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    again = run(arm=arm, **options, **SMALL)
    assert equal(first, again) and torch.equal(state, torch.random.get_rng_state())
    assert not equal(first, run(arm=arm, **options, **(SMALL | {"seed": 1})))


def test_unknown_names():
    with pytest.raises(UnknownName, match="arm 'esp"):
        thinning_run(arm="esp 0.1", measure_every=1, **SMALL)
    with pytest.raises(UnknownName, match="arm 'stale'"):
        stale_run(arm="stale", measured=9, looks=1, **SMALL)
    with pytest.raises(UnknownName, match="data set"):
        stale_run(arm="u", measured=9, looks=1, **(SMALL | {"data": "cifar"}))
