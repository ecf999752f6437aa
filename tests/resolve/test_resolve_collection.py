"""The garbage collector while MLflow is imported: off, and afterwards as it was."""

import gc

import pytest

from harness.core.errors import ResolveError
from harness.resolve import mlflow_client


@pytest.fixture(params=[True, False])
def was_on(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_it_is_off_while_a_client_is_made_and_then_as_before(registry, monkeypatch, was_on):
    seen = []
    monkeypatch.setattr(mlflow_client, "_client", lambda *_: seen.append(gc.isenabled()))
    mlflow_client.connect(registry.uri, registry.uri)
    assert (seen, gc.isenabled()) == ([False], was_on)


def test_it_is_as_before_after_a_failure_too(registry, monkeypatch, was_on):
    def failing(*_):
        raise ResolveError("registry", "is broken", "Repair it.")

    monkeypatch.setattr(mlflow_client, "_client", failing)
    with pytest.raises(ResolveError):
        mlflow_client.connect(registry.uri, registry.uri)
    assert gc.isenabled() is was_on
