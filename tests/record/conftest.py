"""Fixtures of the proxies' tests: a server in a process of its own, and a tap that keeps what it hears."""

import pytest
from peers import peer
from proxies import Kept


@pytest.fixture(scope="module")
def server():
    with peer() as address:
        yield address


@pytest.fixture
def kept():
    return Kept()
