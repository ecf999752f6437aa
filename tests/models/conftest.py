import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # models/ and scenarios/ are folders of scripts, not installed
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    from models.flights import data

    return data.requests()
