import importlib.util

import pytest

from hpctrain.errors import UserError
from hpctrain.parallel.environment import Ranks
from hpctrain.parallel.horovod import HorovodCommunicator


@pytest.mark.skipif(importlib.util.find_spec("horovod") is not None, reason="Horovod is here")
def test_without_horovod_the_error_says_what_to_do():
    with pytest.raises(UserError, match=r"needs Horovod, built for this torch.*docs/parallel\.md"):
        HorovodCommunicator(HorovodCommunicator.Config(), Ranks(0, 2, 0, "MPICH"))
