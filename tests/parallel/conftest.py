import os

import pytest

from hpctrain.parallel.communicator import connect
from hpctrain.parallel.environment import detect
from hpctrain.parallel.mpi import MpiCommunicator


@pytest.fixture(scope="session")
def world():
    """The ranks this test run was started on: one, or those of mpiexec."""
    communicator = connect(MpiCommunicator.Config(), detect(os.environ))
    yield communicator
    communicator.close()
