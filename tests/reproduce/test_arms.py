"""Arms of the second paper's experiments: kept, found again, the same as runs by themselves."""

import numpy as np
import pytest

from impsamp.errors import DataUnavailable, InvalidArgument, UnknownName
from impsamp.reproduce import arms
from impsamp.reproduce.arms import arm_problem, arm_runs, kept_arms, seed_results
from impsamp.reproduce.horvath import horvath_run, make_sampling

HOW = dict(passes=2, points=3, targets=[0.5])
ARM = dict(data="breast_cancer", reading="01", scale="raw", method="saga", sampling="importance")
CONFIG = dict(ARM, batch=5, seeds=[3, 4], how=HOW)


def test_an_arm_is_its_runs():
    problem = arm_problem("breast_cancer")
    law = make_sampling("importance", problem.lifted_smoothness, 5)
    results = seed_results(arm_runs(**CONFIG))
    for seed, result in zip([3, 4], results, strict=True):
        alone = horvath_run(problem, "saga", law, seed=seed, **HOW)
        assert alone.keys() == result.keys()
        for key, value in alone.items():
            np.testing.assert_array_equal(result[key], value)


def test_an_interrupted_experiment_goes_on(tmp_path, monkeypatch):
    "The second arm fails; started again, the first is read and not computed."
    other = dict(CONFIG, method="sarah")
    calls = []
    real = arms.horvath_run

    def run(problem, method, law, **how):
        calls.append(method)
        if method == "sarah" and calls.count("sarah") == 1:
            raise KeyboardInterrupt
        return real(problem, method, law, **how)

    monkeypatch.setattr(arms, "horvath_run", run)
    with pytest.raises(KeyboardInterrupt):
        kept_arms([CONFIG, other], experiment="x", root=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    done = kept_arms([CONFIG, other], experiment="x", root=tmp_path)
    assert calls == ["saga", "saga", "sarah", "sarah", "sarah"]
    whole = kept_arms([CONFIG, other], experiment="x", root=tmp_path / "whole")
    for ours, theirs in zip(done, whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert all(np.array_equal(a[key], b[key]) for key in b)


def test_an_arm_is_named_by_how_it_runs(tmp_path):
    kept_arms([CONFIG], experiment="x", root=tmp_path)
    kept_arms([dict(CONFIG, how=HOW | {"lr": 0.5})], experiment="x", root=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_refusals():
    with pytest.raises(InvalidArgument, match="at least one seed"):
        arm_runs(**dict(CONFIG, seeds=[]))
    with pytest.raises(UnknownName, match="importance"):
        arm_runs(**dict(CONFIG, sampling="importence"))


def test_data_that_cannot_be_had_are_asked_for_again(monkeypatch):
    "A failure is not remembered as an answer."

    def gone(*names, **words):
        raise DataUnavailable("'splice' cannot be had")

    monkeypatch.setattr(arms, "sigmoid_problem", gone)
    with pytest.raises(DataUnavailable):
        arm_problem("splice", "01", "column")
    monkeypatch.setattr(arms, "sigmoid_problem", lambda *names, **words: "there")
    assert arm_problem("splice", "01", "column") == "there"
    arm_problem.cache_clear()
