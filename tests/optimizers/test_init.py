"""The package's names are the objects of its modules."""

import impsamp
from impsamp import optimizers
from impsamp.optimizers import learning_rate, saga, scalar, variance_reduced


def test_every_name_is_the_object_of_its_module():
    homes = dict(
        LearningRateFactor=learning_rate,
        learning_rate_factor=learning_rate,
        SAGA=saga,
        SARAH=variance_reduced,
        SVRG=variance_reduced,
        ScalarAdam=scalar,
        ScalarRMSprop=scalar,
    )
    assert set(optimizers.__all__) == set(homes)
    for name, module in homes.items():
        assert getattr(optimizers, name) is getattr(module, name)
        assert getattr(impsamp, name) is getattr(module, name)
