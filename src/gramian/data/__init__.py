"""Real data sets and weight files by name, readers of the user's files, and generators.

    >>> from gramian import data
    >>> vowels = data.load("JapaneseVowels_eq")          # doctest: +SKIP
    >>> vowels.x_train.shape                             # doctest: +SKIP
    (270, 25, 12)

Names ignore case, ``-`` and ``_``. What is not on this machine is brought by ``gramian data fetch NAME``
and by nothing else: `load` and `path` raise `gramian.lab.Missing` with that command. Importing this
package imports neither numpy nor torch nor pandas; its functions do when they are first used.
"""

from importlib import import_module
from typing import Any

from gramian.data.catalogue import CATALOGUE, TEST_SETS, Entry, Wheel, entry, names

_HOMES = {
    "fetch": "store",
    "add": "store",
    "is_here": "store",
    "path": "store",
    "root": "store",
    "load": "loading",
    "read": "reading",
    "Graph": "kinds",
    "Image": "kinds",
    "ImageSet": "kinds",
    "LabelledImages": "kinds",
    "LabelledSeries": "kinds",
    "Series": "kinds",
    "SeriesRecords": "kinds",
    "SeriesSet": "kinds",
    "Stereo": "kinds",
    "Table": "kinds",
    "Triples": "kinds",
    "Weights": "kinds",
}

__all__ = ["CATALOGUE", "TEST_SETS", "Entry", "Wheel", "entry", "names", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"gramian.data.{_HOMES[name]}"), name)
    try:
        return import_module(f"gramian.data.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"gramian.data.{name}":
            raise
        raise AttributeError(f"gramian.data has no {name!r}; it has {', '.join(sorted(__all__))}") from None
