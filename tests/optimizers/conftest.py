"""Every enumerated law as a fixture."""

import pytest

from tests.optimizers.helpers import SAMPLINGS


@pytest.fixture(params=SAMPLINGS)
def law(request):
    return SAMPLINGS[request.param]
