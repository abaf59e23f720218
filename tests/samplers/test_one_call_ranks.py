"""The loader on two ranks: together they see what one undisturbed process sees."""

import json
import warnings

import numpy as np
import pytest

from tests.samplers import loader_worker as worker
from tests.samplers.torchrun import reports_of, torchrun


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(2, "loader_worker.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return reports_of(folder, 2)


@pytest.fixture(scope="module")
def alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return json.loads(json.dumps(worker.streams()))


def union(parts):
    "What the ranks saw, one below the other, with the weights of a single process."
    whole = []
    for rows in zip(*parts):
        steps = {step for step, _, _ in rows}
        assert len(steps) == 1
        items = [i for _, idx, _ in rows for i in idx]
        weights = [w / len(rows) for _, _, weight in rows for w in weight]
        whole.append((steps.pop(), sorted(zip(items, np.round(weights, 12)))))
    return whole


NAMES = {
    "calm": ["calm", "disturbed", "workers", "resumed"],
    "shuffled": ["shuffled", "shuffled, disturbed", "shuffled, resumed"],
    "sharded": ["sharded", "sharded, disturbed", "sharded, resumed"],
}
PAIRS = [(kind, name) for kind, names in NAMES.items() for name in names]


@pytest.mark.parametrize("kind, name", PAIRS)
def test_two_ranks_see_what_one_undisturbed_process_sees(ranks, alone, kind, name):
    wanted = union([alone[kind]])
    assert [step for step, _ in wanted] == list(range(worker.TOTAL))
    assert union([alone[name]]) == wanted
    assert union([report["streams"][name] for report in ranks]) == wanted


def test_two_ranks_train_the_model_of_one(ranks, alone):
    for report in ranks:
        for here, there in zip(report["streams"]["ddp"], alone["ddp"]):
            assert np.allclose(here, there, rtol=1e-10)


@pytest.mark.parametrize(
    "what, words",
    [
        ("without a seed", "generator=None gives each rank another seed"),
        ("other seeds", "seed = "),
        ("about to be", "keep this loader from the wrapper"),
        ("sharded, about to be", "keep this loader from the wrapper"),
        ("sharded again", "the ranks report different steps (0 and 1)"),
    ],
)
def test_ranks_are_told_what_is_wrong(ranks, what, words):
    assert any(words in (report[what] or "") for report in ranks)
