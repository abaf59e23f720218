"""What the tests of claims share."""

from pathlib import Path

import pytest

from impsamp.reproduce.claims import read_claims

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def lahire():
    "The claims of the first paper."
    return read_claims(ROOT / "nbs" / "experiments" / "claims_lahire.toml")


@pytest.fixture(scope="session")
def on_losses(lahire):
    "Those of them that records judge."
    return [claim for claim in lahire if claim.get("family") == "loss"]
