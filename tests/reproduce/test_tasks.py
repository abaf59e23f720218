"""The judged schemes are the ones that the pages speak of, and a task is set up alike each time."""

import pytest
import torch

from impsamp.errors import UnknownName
from impsamp.reproduce.tasks import JUDGED, TASKS, certify_run, judged_scheme, make_task
from impsamp.schemes import GradNorm, Loss, Mixture, Stale, Uniform, UpperBound

TYPES = {
    "u": Uniform,
    "gn": GradNorm,
    "half": Mixture,
    "upper": UpperBound,
    "loss": Loss,
    "stale": Stale,
}


def test_each_name_is_its_scheme():
    assert {name: type(judged_scheme(name, "mnist01")) for name in JUDGED} == TYPES
    assert {name: type(judged_scheme(name, "mnist")) for name in JUDGED} == TYPES


@pytest.mark.parametrize(("task", "every", "pool"), [("mnist01", 1, 25), ("mnist", 469, 256)])
def test_norms_are_fresh_on_a_hundred_images_and_twice_an_epoch_on_all(task, every, pool):
    assert judged_scheme("gn", task).every == every
    half = judged_scheme("half", task)
    assert [type(part) for part in half.parts] == [GradNorm, Uniform] and half.weight == 0.5
    assert half.parts[0].every == every
    assert judged_scheme("upper", task).pool_size == pool


def test_a_task_starts_from_its_seed_alone():
    state = torch.random.get_rng_state()
    a, b, c = (make_task("mnist01", seed)[0] for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    first = [next(m.parameters()) for m in (a, b, c)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_settings_are_the_papers_and_a_copy():
    settings = make_task("mnist01", 0)[3]
    assert settings == {"lr": 0.01, "batch": 5, "steps": 300, "every": 10}
    settings["lr"] = 9
    assert TASKS["mnist01"].settings["lr"] == 0.01


def test_a_run_has_a_row_per_evaluation_and_its_own_numbers():
    run = certify_run(task="mnist01", scheme="u", seed=0, steps=4, every=2)
    assert list(run["step"]) == [0, 2, 4] and run["skipped"] == 0
    assert run["tv_to_u"] == pytest.approx(0, abs=1e-15)
    assert run["second_moment_ratio"] == pytest.approx(1)


def test_unknown_names():
    with pytest.raises(UnknownName, match="task 'mnits'"):
        make_task("mnits", 0)
    with pytest.raises(UnknownName, match="scheme 'gm'"):
        judged_scheme("gm", "mnist")
