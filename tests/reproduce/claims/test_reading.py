"""Files of claims: what the first paper's covers, and what is refused."""

import tomllib

import pytest

from impsamp.errors import DataError, UnknownName
from impsamp.reproduce.claims import read_claims
from tests.reproduce.made_records import ARMS

GOOD = """
[[claim]]
id = "a"
text = "t"
source = "s"
kind = "order"
family = "loss"
measures = ["mean_log"]
pairs = [["a/b", "c/d"]]
"""


def test_claims_of_the_first_paper_cover_section_4(lahire):
    ids = {claim["id"] for claim in lahire}
    assert {
        "sgd-order",
        "momentum-order",
        "rmsprop-no-gain",
        "adam-no-gain",
        "early-adaptive-sgd",
        "final-sgd",
        "time-gn-twice-u",
        "time-half-gn",
        "time-optimizer-u",
        "time-optimizer-gn",
        "time-axis-sgd",
        "cost-linear-n",
    } <= ids


def test_claims_of_the_first_paper_are_about_its_arms(lahire):
    pairs = [pair for claim in lahire for pair in claim.get("pairs", ())]
    assert {arm.removesuffix("@time") for pair in pairs for arm in pair} == set(ARMS)


def test_the_region_of_twice_the_time_holds_the_papers_own_ratios(lahire):
    low, high = next(claim["region"] for claim in lahire if claim["id"] == "time-gn-twice-u")
    paper = [53.0 / 26.5, 56.6 / 24.9, 57.4 / 25.5, 61.4 / 25.7]
    assert low < min(paper)
    assert max(paper) < high
    assert low * high == pytest.approx(4)


@pytest.mark.parametrize(
    "text, error",
    [
        ("nonsense =", DataError),
        ("x = 1", DataError),
        (GOOD + GOOD, DataError),
        (GOOD.replace("order", "ordre"), UnknownName),
        (GOOD.replace('text = "t"', ""), DataError),
        (GOOD.replace('measures = ["mean_log"]', ""), DataError),
    ],
)
def test_bad_files_of_claims(tmp_path, text, error):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(error):
        read_claims(path)


def test_a_good_file_of_claims(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD)
    assert read_claims(path) == tomllib.loads(GOOD)["claim"]


def test_a_missing_file_of_claims(tmp_path):
    with pytest.raises(DataError, match="no file of claims"):
        read_claims(tmp_path / "none.toml")


def test_a_statement_needs_a_reason_and_no_pairs(tmp_path):
    path = tmp_path / "claims.toml"
    statement = '[[claim]]\nid = "a"\ntext = "t"\nsource = "s"\nkind = "statement"\n'
    path.write_text(statement)
    with pytest.raises(DataError, match="'a' needs reason"):
        read_claims(path)
    path.write_text(statement + 'reason = "no run could"\n')
    assert read_claims(path)[0]["reason"] == "no run could"
