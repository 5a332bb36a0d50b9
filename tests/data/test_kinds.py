"""What the records compute about themselves."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from gramian import data
from gramian.data import Graph, LabelledImages, Table


def test_a_table_refuses_to_guess_an_encoding():
    frame = pd.DataFrame({"a": [1.0, 2.0, None], "city": ["x", "y", "z"], "t": [1, 0, 1], "e": [True, False, True]})
    table = Table("toy", frame, target="t", event="e")
    assert table.features == ["a", "city"]
    with pytest.raises(ValueError, match="text in city"):
        _ = table.x
    numeric = table.numeric()
    assert numeric.x.tolist() == [[1.0], [2.0]]
    assert numeric.y.tolist() == [1.0, 0.0]
    assert numeric.event == "e"
    with pytest.raises(ValueError, match="no target column; its columns are a, city, t, e"):
        _ = Table("toy", frame).y


def test_rows_of_a_table_as_series():
    frame = pd.DataFrame({"x0": [1.0, 2.0], "x1": [3.0, 4.0], "y": [1, 2]})
    records = Table("toy", frame, "y").series()
    assert records.x.shape == (2, 2, 1)
    assert records.y.tolist() == ["1", "2"]


def test_edges_are_positions_in_the_graphs_order():
    graph = Graph("toy", nx.Graph([("b", "a"), ("a", "c")]))
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert Graph("empty", nx.Graph()).edges.shape == (0, 2)


def test_labelled_images_as_rows():
    images = LabelledImages("toy", np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([0, 1]))
    assert images.x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_digits_and_wine_come_with_scikit_learn():
    from sklearn.datasets import load_digits, load_wine

    digits = data.load("digits")
    np.testing.assert_array_equal(digits.x, load_digits().data)
    np.testing.assert_array_equal(digits.y, load_digits().target)
    np.testing.assert_array_equal(data.load("wine").x, load_wine().data)


def test_changes_count_up_along_a_segmented_series():
    if not data.is_here("gun_point_segmentation"):
        pytest.skip("bring it with `gramian data fetch gun_point_segmentation`")
    series = data.load("gun_point_segmentation")
    assert np.flatnonzero(np.diff(series.labels)).tolist() == [899]
