"""JSON records as vectors."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from gramian.estimators.json_vsa import JSONVectorizer
from gramian.linalg.vsa import NotOrthogonalError

RECORDS = [
    {"name": "Ada", "age": 36, "tags": ["maths", "poetry"], "home": {"city": "London", "floor": 2}},
    {"name": "Bob", "age": 40, "tags": [], "home": {"city": "Paris", "floor": None}},
    {"name": "Cid", "age": 71, "tags": ["chess"], "home": {}},
]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_record_does_not_depend_on_its_company_or_its_keys_order():
    model = JSONVectorizer(512).fit(RECORDS)
    codes = model.transform(RECORDS)
    for record, code in zip(RECORDS, codes):
        np.testing.assert_allclose(model.transform([dict(reversed(record.items()))])[0], code, atol=1e-5)
        np.testing.assert_allclose(model.encode(record), code, atol=1e-5)
    again = clone(model).fit(RECORDS)
    assert (again.transform(RECORDS) == codes).all()
    assert (pickle.loads(pickle.dumps(JSONVectorizer(512))).fit(RECORDS).transform(RECORDS) == codes).all()


@pytest.mark.parametrize("kind", ["haar", "hd", "householder"])
def test_queries_read_nested_fields(kind):
    model = JSONVectorizer(1024, soft=False, kind=kind).fit(RECORDS)
    code = model.transform(RECORDS)[0]
    assert model.query(code, ("name",), ["Ada", "Bob", "Cid"]) == "Ada"
    assert model.query(code, ("home", "city"), ["London", "Paris"]) == "London"
    assert model.query(code, ("tags", 1), ["maths", "poetry", "chess"]) == "poetry"
    assert model.query(code, ("age",), [36, 40, 71]) == 36


def test_soft_leaves_are_alike_by_their_distance():
    model = JSONVectorizer(2048).fit([{"x": v} for v in range(0, 100, 5)])
    base, *others = model.transform([{"x": v} for v in (50, 52, 60, 80)])
    likeness = [cosine(base, other) for other in others]
    assert likeness == sorted(likeness, reverse=True)
    words = model.transform(["colour", "color", "banana", ""])
    assert cosine(words[0], words[1]) > cosine(words[0], words[2]) + 0.2
    hard = JSONVectorizer(2048, soft=False).fit_transform(["colour", "color"])
    assert abs(cosine(*hard)) < 0.1


def test_different_json_is_different():
    values = [True, 1, "1", None, [], {}, [1], {"a": 1}, [[1]], "true", [[], 1], [1, []]]
    codes = JSONVectorizer(1024, soft=False).fit_transform(values)
    cosines = np.array([[cosine(a, b) for a in codes] for b in codes]) - np.eye(len(values))
    assert np.abs(cosines).max() < 0.78  # [1] and [1, []] share one of two terms: 1/√2
    same = JSONVectorizer(1024, soft=False).fit_transform([1, 1.0])
    assert cosine(*same) > 0.999


def test_order_matters_unless_arrays_are_bags():
    forward, back = {"t": ["a", "b"]}, {"t": ["b", "a"]}
    assert cosine(*JSONVectorizer(1024, soft=False).fit_transform([forward, back])) < 0.2
    assert cosine(*JSONVectorizer(1024, soft=False, array="bag").fit_transform([forward, back])) > 0.999


def test_bad_records_raise():
    model = JSONVectorizer(64).fit(RECORDS)
    with pytest.raises(ValueError, match=r"record 1, path \('a',\)"):
        model.transform([{}, {"a": float("nan")}])
    cycle: dict = {}
    cycle["self"] = [cycle]
    with pytest.raises(ValueError, match="contains itself"):
        model.transform([cycle])
    with pytest.raises(TypeError, match="not a string"):
        model.transform([{1: "a"}])
    with pytest.raises(TypeError, match="set is not JSON"):
        model.transform([{"a": {1}}])
    with pytest.raises(ValueError, match="not one of"):
        JSONVectorizer(64, array="heap").fit(RECORDS)
    with pytest.raises(ValueError, match="candidate"):
        model.query(model.encode(RECORDS[0]), ("name",), [])
    bag = JSONVectorizer(64, array="bag").fit(RECORDS)
    with pytest.raises(ValueError, match="order is not kept"):
        bag.query(bag.encode(RECORDS[0]), ("tags", 0), ["maths"])
    gauss = JSONVectorizer(64, kind="gauss").fit(RECORDS)
    with pytest.raises(NotOrthogonalError):
        gauss.query(gauss.encode(RECORDS[0]), ("name",), ["Ada"])
