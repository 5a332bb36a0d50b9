"""The parsers of .ts, .arff, .tsf and IDX, against arrays written here."""

import gzip
import struct

import numpy as np
import pytest

from gramian.data.formats.idx import read_idx
from gramian.data.formats.ts import as_array, read_arff, read_ts, read_tsf

HEADER = "#note\n@problemName toy\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_ts_splits_channels_and_keeps_ragged_lengths(tmp_path):
    series, labels = read_ts(write(tmp_path / "t.ts", HEADER + "1,2,3:4,5,6:a\n7,8:9,?:b\n"))
    np.testing.assert_array_equal(series[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(series[1], [[7, 9], [8, np.nan]])
    assert labels.tolist() == ["a", "b"]
    assert isinstance(as_array(series), list)
    assert as_array(series[:1] * 2).shape == (2, 3, 2)


def test_ts_with_a_target_gives_numbers(tmp_path):
    text = "@univariate true\n@targetlabel true\n@data\n1,2:0.5\n3,4:-1e3\n"
    _, y = read_ts(write(tmp_path / "t.ts", text))
    assert y.dtype == np.float64
    assert y.tolist() == [0.5, -1000.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,2:3,4:a\n1,x:3,4:a\n", r"line 8, value 2: 'x' is not a number"),
        (HEADER + "1,2:3:a\n", r"line 7: the channels of one series have different lengths \[2, 1\]"),
        (HEADER + "1,2\n", r"line 7: no label after the values"),
        ("@classLabel true a\n1,2:a\n", r"line 2: .*starts? with"),
        ("@classLabel true a\n", "no @data line"),
        ("@targetlabel true\n@data\n1,2:high\n", "labels are numbers, but could not convert string to float: 'high'"),
        ("@timestamps true\n@data\n", "time stamps are not read"),
    ],
)
def test_ts_errors_name_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ts(write(tmp_path / "t.ts", text))


def test_ts_that_is_no_text(tmp_path):
    (tmp_path / "t.ts").write_bytes(b"@data\n\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_ts(tmp_path / "t.ts")


def test_arff_univariate_and_multivariate(tmp_path):
    plain = "% note\n@relation r\n@attribute a0 numeric\n@attribute target {1,2}\n@data\n0.5,1.5,1\n2.5,?,2\n"
    series, y = read_arff(write(tmp_path / "p.arff", plain))
    assert [s.shape for s in series] == [(2, 1), (2, 1)]
    assert np.isnan(series[1][1, 0])
    assert y.tolist() == ["1", "2"]
    multi = "@relation r\n@attribute rel relational\n@attribute activity {up,down}\n@data\n'1,2,3\\n4,5,6',up\n"
    series, y = read_arff(write(tmp_path / "m.arff", multi))
    np.testing.assert_array_equal(series[0], [[1, 4], [2, 5], [3, 6]])
    assert y.tolist() == ["up"]


def test_tsf_gives_series_by_name_and_the_horizon(tmp_path):
    header = "@attribute series_name string\n@attribute start_timestamp date\n@horizon 6\n@data\n"
    text = header + "T1:1970-01-01 00-00-00:1,2,3\nT2:x:4\n"
    series, horizon = read_tsf(write(tmp_path / "t.tsf", text))
    assert horizon == 6
    assert {k: v.tolist() for k, v in series.items()} == {"T1": [1, 2, 3], "T2": [4]}


def test_idx_reads_plain_and_gzipped_and_refuses_what_is_cut_off(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    raw = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + values.tobytes()
    (tmp_path / "a").write_bytes(raw)
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), values)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), values)
    (tmp_path / "b").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match="cut off: 23 values, 2x3x4 expected"):
        read_idx(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"PK12345")
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(tmp_path / "c")
