"""JSON as vectors: nested records become points of one space, whose nearness is likeness of the records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gramian.linalg.vsa import Space

__all__ = ["JSONVectorizer"]

Path = tuple[str | int, ...]
ARRAYS = ("seq", "bag")
_LEVELS = (0.25, 1.0, 4.0, 16.0)  # grid spacings, in standard deviations of the numbers at one path


@dataclass
class _Node:
    """What all records hold at one path: leaf codes by record, and children by key or index."""

    leaves: dict[int, list[Any]] = field(default_factory=dict)
    children: dict[str | int, _Node] = field(default_factory=dict)


class JSONVectorizer(TransformerMixin, BaseEstimator):
    """JSON values (as `json.loads` gives them) → vectors of one length.

    An object is Σ M_key enc(value); an array Σ Pⁱ⁺¹ enc(valueᵢ), P the position's matrix, or with
    array="bag" a sum that ignores order; a leaf is a unit vector. With `soft`, strings are sums of their
    character trigrams and numbers are interpolated on grids of several widths, so that like values have
    like vectors; without it, different values are unrelated. Keys' order does not matter.

    Args:
        dim: length of the vectors.
        soft: whether like leaves are alike.
        array: "seq" (order matters) or "bag".
        kind: of the roles' matrices, see `gramian.linalg.vsa.KINDS`.
        seed: of the space.

    Attributes:
        scales_: for each path that held numbers, their mean and standard deviation (the grids' units); a
            path not seen in `fit` uses those of its numbers in general, 0 and 1.

    Raises:
        ValueError: NaN or infinity, an object that contains itself, an unknown `array`.
        TypeError: a key that is not a string, or a value that is not JSON.

    Source: Gallant, "Orthogonal Matrices for MBAT Vector Symbolic Architectures, and a 'Soft' VSA Representation
    for JSON" (2022).

    >>> JSONVectorizer(dim=256, kind="hd").fit_transform([{"name": "Ada", "tags": ["x", 1]}, {"name": "Bob"}]).shape
    (2, 256)
    """

    def __init__(self, dim: int = 1024, soft: bool = True, array: str = "seq", kind: str = "hd", seed: int = 0) -> None:
        self.dim = dim
        self.soft = soft
        self.array = array
        self.kind = kind
        self.seed = seed

    def fit(self, X: Sequence[Any], y: object = None) -> JSONVectorizer:
        """Learn the scale of the numbers at each path; nothing else is learnt."""
        if self.array not in ARRAYS:
            raise ValueError(f"array={self.array!r} is not one of {', '.join(ARRAYS)}")
        self.space_ = Space(self.dim, self.seed, self.kind)
        numbers: dict[Path, list[float]] = {}
        root = self._gather(X)

        def visit(node: _Node, path: Path) -> None:
            found = [leaf for leaves in node.leaves.values() for leaf in leaves if _is_number(leaf)]
            if found:
                numbers.setdefault(path, []).extend(found)
            for key, child in node.children.items():
                # all places of an array share one scale
                visit(child, (*path, "[]" if isinstance(key, int) else key))

        visit(root, ())
        self.scales_ = {path: (float(np.mean(v)), float(np.std(v)) or 1.0) for path, v in numbers.items()}
        return self

    def transform(self, X: Sequence[Any]) -> Float[np.ndarray, "records dim"]:
        """One vector a record."""
        check_is_fitted(self)
        return self._encode(self._gather(X), (), len(X)).numpy()

    def encode(self, value: Any) -> Float[Tensor, " dim"]:
        """The vector of one JSON value at the root."""
        check_is_fitted(self)
        return self._encode(self._gather([value]), (), 1)[0]

    def query(
        self, vector: Float[Tensor, " dim"] | Float[np.ndarray, " dim"], path: Path, candidates: Sequence[Any]
    ) -> Any:
        """What stands at `path` in an encoded record: of the candidates, the one whose code is nearest.

        Args:
            vector: an encoded record.
            path: keys and array indices from the root, such as ``("owner", "tags", 0)``.
            candidates: JSON values to choose from.

        Raises:
            ValueError: no candidates, or an index in a path where arrays are bags.
            NotOrthogonalError: a kind of space that cannot unbind.
        """
        check_is_fitted(self)
        if not len(candidates):
            raise ValueError("query needs at least one candidate")
        found = torch.as_tensor(vector, dtype=self.space_.dtype)
        for key in path:
            if isinstance(key, int) and self.array == "bag":
                raise ValueError(f"index {key} in path {path}: with array='bag' the order is not kept")
            role, times = ("position", key + 1) if isinstance(key, int) else (f"key {key}", 1)
            found = self.space_.unbind(role, found, times)
        place = tuple("[]" if isinstance(key, int) else key for key in path)
        codes = self._encode(self._gather(candidates), place, len(candidates))
        return candidates[int((codes @ found / codes.norm(dim=-1)).argmax())]

    def _gather(self, records: Sequence[Any]) -> _Node:
        """All records laid over one another, so that each role is applied once to all of them."""
        root = _Node()

        def walk(value: Any, node: _Node, record: int, above: tuple[int, ...], path: Path) -> None:
            if isinstance(value, (dict, list, tuple)) and value:
                if id(value) in above:
                    raise ValueError(f"record {record}, path {path}: the object contains itself")
                above = (*above, id(value))
                for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                    if isinstance(value, dict) and not isinstance(key, str):
                        raise TypeError(
                            f"record {record}, path {path}: key {key!r} is not a string; JSON has no other keys"
                        )
                    walk(child, node.children.setdefault(key, _Node()), record, above, (*path, key))
                return
            if isinstance(value, tuple):
                value = []
            if _is_number(value) and not (abs(value) <= 1e300):
                raise ValueError(f"record {record}, path {path}: {value} is not a number that can be placed on a grid")
            if not (value is None or isinstance(value, (str, bool, int, float, dict, list))):
                raise TypeError(f"record {record}, path {path}: a {type(value).__name__} is not JSON")
            node.leaves.setdefault(record, []).append(value)

        for record, value in enumerate(records):
            walk(value, root, record, (), ())
        return root

    def _encode(self, node: _Node, path: Path, count: int) -> Tensor:
        total = torch.zeros(count, self.dim, dtype=self.space_.dtype)
        known: dict[str, Tensor] = {}
        for record, leaves in node.leaves.items():
            for leaf in leaves:
                name = repr(leaf)
                if name not in known:
                    known[name] = self._leaf(leaf, path)
                total[record] += known[name]
        places = sorted((key for key in node.children if isinstance(key, int)), reverse=True)
        inside = torch.zeros_like(total) if places else total
        for index in range(places[0] if places else -1, -1, -1):
            # Horner's rule: the term of index i passes through the position's matrix i + 1 times
            child = self._encode(node.children[index], (*path, "[]"), count) if index in node.children else 0
            if self.array == "bag":
                inside = inside + self.space_.bind("element", child)
            else:
                inside = self.space_.bind("position", inside + child)
        if places:
            total = total + inside
        for key, below in node.children.items():
            if isinstance(key, str):
                total = total + self.space_.bind(f"key {key}", self._encode(below, (*path, key), count))
        return total

    def _leaf(self, value: Any, path: Path) -> Tensor:
        space = self.space_
        if isinstance(value, str):
            if not self.soft:
                return space.item(f"string {value}")
            marked = f"\x02{value}\x03"
            grams = [marked[i : i + n] for n in (1, 2, 3) for i in range(len(marked) - n + 1)]
            return _unit(space.bundle([space.item(f"gram {gram}") for gram in grams]))
        if _is_number(value):
            if not self.soft:
                return space.item(f"number {float(value)!r}")
            mean, spread = self.scales_.get(path, (0.0, 1.0))
            return self._on_grids((value - mean) / spread)
        return space.item(f"symbol {value!r}")  # true, false, null, and the empty object and array

    def _on_grids(self, u: float) -> Tensor:
        """A point between two grid items, on each of several grids."""
        codes = []
        for spacing in _LEVELS:
            below = math.floor(u / spacing)
            share = u / spacing - below
            pair = (self.space_.item(f"grid {spacing} {below + step}") for step in (0, 1))
            codes.append(_unit(sum(w * item for w, item in zip((1 - share, share), pair))))
        return _unit(self.space_.bundle(codes))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm()
