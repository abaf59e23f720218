"""The package's `__init__`: the names that results notebooks import, and where they live."""

import pytest

from impsamp.reproduce import claims

HOMES = {
    "Claim": "reading",
    "read_claims": "reading",
    "time_matched": "timings",
    "timing_statistics": "timings",
    "timing_table": "timings",
    "judge": "judging",
    "judge_statistics": "judging",
    "claims_page": "pages",
}


def test_all_is_what_is_documented():
    assert sorted(claims.__all__) == sorted([*HOMES, "PHASES"])


@pytest.mark.parametrize("name", HOMES)
def test_every_name_lives_where_the_table_says(name):
    assert getattr(claims, name).__module__ == f"impsamp.reproduce.claims.{HOMES[name]}"
