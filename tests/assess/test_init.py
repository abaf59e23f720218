"""The names that the package gives a user."""

import impsamp.assess
from impsamp.assess import Assessment, Probe, assess, certify, probe
from impsamp.assess.callback import AssessCallback


def test_every_name_is_there_and_documented():
    for name in impsamp.assess.__all__:
        value = getattr(impsamp.assess, name)
        assert not callable(value) or value.__doc__, name


def test_a_user_finds_what_the_readme_speaks_of():
    assert {"assess", "certify", "probe", "measure", "MEASURES"} <= set(impsamp.assess.__all__)
    assert impsamp.assess.AssessCallback is AssessCallback
    assert all(map(callable, (Assessment, Probe, assess, certify, probe)))
