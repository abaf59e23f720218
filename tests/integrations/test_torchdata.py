"""torchdata's loader of drawn batches goes on in mid-epoch."""

import pytest

from tests.integrations import cases
from tests.samplers.helpers import through_a_file

pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is missing")

from impsamp.integrations.torchdata import StatefulImportanceLoader

pytestmark = pytest.mark.filterwarnings("ignore")
TOTAL = 2 * cases.STEPS


def stateful(law, **options):
    data = cases.images()
    options = dict(steps=cases.STEPS, generator=0) | options
    return StatefulImportanceLoader(data, cases.law(law, len(data)), cases.BATCH, **options)


@pytest.mark.parametrize(("law", "workers"), [("stale", 0), ("stale", 2), ("shuffle", 0), ("p", 0)])
def test_the_losses_are_those_of_a_plain_loop(law, workers):
    options = dict(num_workers=workers, lag="auto")
    seen = cases.plain(stateful(law, **options), TOTAL)
    assert seen == cases.plain(cases.loader_of(law, **options), TOTAL)


class Stopped:
    "A network in training that outlives its loader."

    def __init__(self):
        self.net = cases.model()
        self.optimizer = cases.optimizer_of(self.net)
        self.seen = []

    def train(self, loader, total):
        while len(self.seen) < total:
            for batch, draw in loader:
                losses = cases.losses_of(self.net, batch)
                self.optimizer.zero_grad()
                draw.estimate(losses).backward()
                self.optimizer.step()
                loader.update(draw, losses)
                self.seen.append((draw.step, losses.tolist()))
                if len(self.seen) == total:
                    break


@pytest.mark.parametrize("law", ["stale", "shuffle", "p"])
@pytest.mark.parametrize("stop", [3, cases.STEPS, cases.STEPS + 4])
def test_a_state_goes_on_with_the_next_draw(law, stop):
    training = Stopped()
    loader = stateful(law)
    training.train(loader, stop)
    state = through_a_file(loader.state_dict())
    again = stateful(law, generator=9)
    again.load_state_dict(state)
    training.train(again, TOTAL)
    assert training.seen == cases.plain(cases.loader_of(law), TOTAL)


@pytest.mark.parametrize("law", ["stale", "shuffle"])
def test_with_workers_no_batch_is_lost_or_comes_twice(law):
    training = Stopped()
    loader = stateful(law, num_workers=2)
    training.train(loader, 5)
    state = through_a_file(loader.state_dict())
    again = stateful(law, num_workers=2, generator=9)
    again.load_state_dict(state)
    training.train(again, TOTAL)
    assert [step for step, _ in training.seen] == list(range(TOTAL))
    if law == "shuffle":
        assert training.seen == cases.plain(cases.loader_of(law), TOTAL)
