"""One of two ranks under accelerate."""

import json
import sys
from pathlib import Path

import accelerate

from impsamp.errors import InvalidArgument
from impsamp.integrations.accelerate import prepare_loader
from tests.integrations import cases
from tests.integrations.test_accelerate import train


def main(folder):
    early = cases.loader_of("stale", lag=1)  # before the ranks have met
    accelerator = accelerate.Accelerator(cpu=True)
    try:
        prepare_loader(accelerator, early)
    except InvalidArgument as e:
        refused = str(e)
    net = cases.model()
    net, optimizer = accelerator.prepare(net, cases.optimizer_of(net))
    loader = prepare_loader(accelerator, cases.loader_of("stale", lag=1))
    seen = train(accelerator, net, optimizer, loader, 2 * cases.STEPS)
    found = {"seen": seen, "refused": refused}
    (folder / f"rank{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
