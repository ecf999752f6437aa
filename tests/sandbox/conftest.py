"""What a test has left behind in its process, whatever other tests of that process have."""

import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Processes that the test has started and that are still there."""

    def there() -> set[int]:
        return {process.pid for process in psutil.Process().children()}

    before = there()
    return lambda: there() - before


@pytest.fixture
def descriptors() -> Callable[[], list[str]]:
    """Numbers of the descriptors that are open now."""
    # What earlier tests left as garbage would be closed at any moment.
    gc.collect()
    # The one that lists them takes the lowest free number, which is the same each time.
    return lambda: sorted(path.name for path in Path("/proc/self/fd").iterdir())
