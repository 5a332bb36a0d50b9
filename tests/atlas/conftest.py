from pathlib import Path

import pytest

from gramian.atlas.find.cards import Shelf

PAPERS = Path(__file__).parent / "papers"


@pytest.fixture
def trial_shelf(monkeypatch) -> Shelf:
    """Papers that hold, fail, raise, hang, swell, die, lack and nap; workers find them too."""
    monkeypatch.setenv("GRAMIAN_PAPERS", str(PAPERS))
    return Shelf((PAPERS,))
