"""What the package shows at its door."""

import impsamp.assess
from impsamp.assess import Assessment, Probe, assess, certify, probe
from impsamp.assess.callback import AssessCallback


def test_every_name_of_the_door_is_there_and_documented():
    for name in impsamp.assess.__all__:
        value = getattr(impsamp.assess, name)
        assert not callable(value) or value.__doc__, name


def test_the_door_holds_what_a_user_needs():
    assert {"assess", "certify", "probe", "measure", "MEASURES"} <= set(impsamp.assess.__all__)
    assert impsamp.assess.AssessCallback is AssessCallback
    assert all(map(callable, (Assessment, Probe, assess, certify, probe)))
