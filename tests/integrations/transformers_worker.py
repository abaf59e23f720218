"""One of two ranks under Trainer."""

import json
import sys
from pathlib import Path

from tests.integrations.test_transformers import BATCH, trained, trainer_of


def main(folder):
    trainer = trainer_of(folder, per_device_train_batch_size=BATCH // 2)
    seen = trained(trainer)
    (folder / f"rank{trainer.args.process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
