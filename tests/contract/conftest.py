"""Fixtures of the store's tests."""

import pytest
import uvloop

from tests.support.servers import OnServer, Server


@pytest.fixture
def moto_bucket(moto: Server) -> OnServer:
    """A fresh bucket on moto, which heeds conditions."""
    return uvloop.run(moto.bucket())
