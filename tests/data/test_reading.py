"""The user's files: what is read, and what is refused with the place named."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from gramian import data
from gramian.data import ImageSet, LabelledSeries, SeriesRecords, SeriesSet, Table, reading
from gramian.lab import Missing


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# tables


def test_csv_tsv_and_parquet_give_the_same_table(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": [1, 2, 3], "kind": ["x", "y", "x"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    for suffix in ("csv", "tsv", "parquet"):
        table = data.read(tmp_path / f"t.{suffix}", target="kind")
        assert isinstance(table, Table)
        np.testing.assert_array_equal(table.x, [[1.5, 1], [2.5, 2], [3.5, 3]])
        assert table.y.tolist() == ["x", "y", "x"]


GOOD = "a,b,kind\n1,2,x\n3,4,y\n5,6,x\n"


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (GOOD, "kin", r"no column 'kin'; did you mean 'kind'\?.*columns are a, b, kind"),
        (GOOD, "zzzz", r"no column 'zzzz'\. Its columns are a, b, kind"),
        ("a,kind\n1,x\n2,y\nlots,x\n4,y\n", "kind", "column 'a' of t.csv mixes numbers and text: row 3 holds 'lots'"),
        ("a,kind\n1,x\n,y\n3,x\n,y\n", "kind", "2 missing values, the first in row 2, column 'a'.*missing='drop'"),
        ("a,kind\n1,x\n2,x\n3,x\n", "kind", "column 'kind' of t.csv is 'x' in every row"),
        ("a,kind\n1,x\n2,y\n", "kind", "2 rows; at least 3 are needed"),
        ("a,kind\n1,x\ninf,y\n2,x\n", "kind", "infinite number in row 2, column 'a'"),
        ("a,b\n1,2,3\n1,2,3\n1,2,3\n", None, "more fields than its first line"),
        ("a,b\n1,2\n1,2,3,4\n1,2\n", None, "cannot be read as a table.*line 3"),
        ("", None, "cannot be read as a table: No columns"),
    ],
)
def test_bad_tables_are_refused_with_the_place(tmp_path, text, target, message):
    with pytest.raises(ValueError, match=message):
        data.read(write(tmp_path / "t.csv", text), target=target)


def test_missing_rows_can_be_dropped_or_kept(tmp_path):
    path = write(tmp_path / "t.csv", "a,kind\n1,x\n,y\n3,x\n4,y\n")
    assert len(data.read(path, "kind", missing="drop").frame) == 3
    kept = data.read(path, "kind", missing="keep")
    assert len(kept.frame) == 4
    with pytest.raises(ValueError, match="gaps in a"):
        _ = kept.x


def test_a_text_column_with_a_few_number_like_codes_is_text(tmp_path):
    path = write(tmp_path / "t.csv", "code,a\nA1,1\nB2,2\n007,3\nC3,4\n")
    assert data.read(path).frame["code"].tolist() == ["A1", "B2", "007", "C3"]


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe\x80,1\n")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        data.read(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a table"):
        data.read(tmp_path / "t.parquet")


def test_parquet_without_its_extra_names_it(tmp_path, monkeypatch):
    def absent(*_args, **_kwargs):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(reading.pd, "read_parquet", absent)
    with pytest.raises(Missing, match=r"pip install 'gramian\[files\]'"):
        data.read(write(tmp_path / "t.parquet", ""))


# series


def ts(rows):
    return "@problemName t\n@timeStamps false\n@classLabel true a b\n@data\n" + "\n".join(rows) + "\n"


def test_series_of_unequal_length_stay_a_list(tmp_path):
    found = data.read(write(tmp_path / "t.ts", ts(["1,2,3:a", "4,5:b", "6:a"])))
    assert isinstance(found, SeriesRecords)
    assert isinstance(found.x, list)
    assert [len(x) for x in found.x] == [3, 2, 1]
    assert found.shape == "3, 1 x 1..3, 2 classes"


def test_a_pair_of_files_is_split_as_they_say(tmp_path):
    write(tmp_path / "Toy_TRAIN.ts", ts(["1,2:a", "3,4:b", "5,6:a"]))
    write(tmp_path / "Toy_TEST.ts", ts(["1,2:a", "3,4:b", "5,6,7:a"]))
    for path in (tmp_path / "Toy_TRAIN.ts", tmp_path):
        found = data.read(path)
        assert isinstance(found, LabelledSeries)
        assert found.ragged
        assert found.shape == "3+3, 1 x 2..3, 2 classes"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,2:a", "3,4:a", "5,6:a"], "every series of t is labelled 'a'"),
        (["1,2:a", "3,4:b"], "2 series; at least 3"),
        (["1,2:a", "3,?:b", "5,6:a"], "the first in series 2, time 2, channel 1"),
        (["1,2:a", "3,4:5,6:b", "5,6:a"], r"different numbers of channels: \[1, 2\]"),
        ([], "0 series"),
    ],
)
def test_bad_series_are_refused_with_the_place(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        data.read(write(tmp_path / "t.ts", ts(rows)))


def test_series_with_gaps_can_be_dropped(tmp_path):
    path = write(tmp_path / "t.ts", ts(["1,2:a", "3,?:b", "5,6:a", "7,8:b"]))
    assert data.read(path, missing="drop").x.shape == (3, 2, 1)


def test_split_keeps_the_classes_shares_and_never_shares_a_series():
    x = np.arange(40.0).reshape(20, 2, 1)
    records = SeriesRecords("toy", x, np.array(["a"] * 15 + ["b"] * 5))
    parts = records.split(0.4, seed=3)
    assert (parts.y_test == "a").sum() == 6
    assert (parts.y_test == "b").sum() == 2
    assert sorted([*parts.x_train.ravel(), *parts.x_test.ravel()]) == x.ravel().tolist()
    np.testing.assert_array_equal(parts.x_test, records.split(0.4, seed=3).x_test)
    assert not np.array_equal(parts.x_test, records.split(0.4, seed=4).x_test)
    with pytest.raises(ValueError, match="classes b of 'toy' have one series"):
        SeriesRecords("toy", x[:16], records.y[:16]).split()
    with pytest.raises(ValueError, match="test_share is 1"):
        records.split(1.0)


def test_arff_and_tsf(tmp_path):
    rows = "@relation r\n@attribute a numeric\n@attribute t {1,2}\n@data\n1,2,1\n3,4,2\n5,6,1\n"
    assert data.read(write(tmp_path / "t.arff", rows)).x.shape == (3, 2, 1)
    found = data.read(write(tmp_path / "t.tsf", "@horizon 2\n@data\nT1:1970:1,2\n"))
    assert isinstance(found, SeriesSet)
    assert found.horizon == 2


# arrays


def test_npy_and_npz(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.normal(size=(3, 2)))
    assert data.read(tmp_path / "a.npy").shape == (3, 2)
    x, y = rng.normal(size=(6, 5, 2)), np.array([0, 1] * 3)
    np.savez(tmp_path / "s.npz", x=x, y=y)
    records = data.read(tmp_path / "s.npz")
    assert isinstance(records, SeriesRecords)
    assert records.y.tolist() == ["0", "1"] * 3
    np.savez(tmp_path / "l.npz", X_train=x, y_train=y, X_test=x, y_test=y)
    assert data.read(tmp_path / "l.npz").shape == "6+6, 2 x 5, 2 classes"
    np.savez(tmp_path / "t.npz", x=x[:, :, 0], y=y)
    assert data.read(tmp_path / "t.npz").y.tolist() == [0, 1] * 3
    np.savez(tmp_path / "o.npz", anything=x)
    assert set(data.read(tmp_path / "o.npz")) == {"anything"}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickle_in_an_array_file_is_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "a.npz", "b.npy"):
        with pytest.raises(ValueError, match="Python objects"):
            data.read(tmp_path / name)


def test_bad_arrays_are_refused_with_the_place(tmp_path):
    values = np.ones((3, 2))
    values[1, 0] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(ValueError, match=r"1 missing or infinite values, the first at index \(1, 0\)"):
        data.read(tmp_path / "nan.npy")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(ValueError, match="numbers are needed"):
        data.read(tmp_path / "text.npy")
    np.save(tmp_path / "cut.npy", np.ones(100))
    np.savez(tmp_path / "cut.npz", x=np.ones(100))
    for name in ("cut.npy", "cut.npz"):
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(ValueError, match="cut off"):
            data.read(tmp_path / name)
    np.savez(tmp_path / "s.npz", x=np.ones((4, 5, 1)), y=np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="4 series and 3 labels"):
        data.read(tmp_path / "s.npz")
    np.savez(tmp_path / "l.npz", x_train=np.ones((4, 5)), y_train=np.ones(4), x_test=np.ones((4, 5)), y_test=np.ones(4))
    with pytest.raises(ValueError, match=r"\(count, length, channels\).*x has shape \(4, 5\)"):
        data.read(tmp_path / "l.npz")


def test_json_lines(tmp_path):
    rows = [{"a": 1}, ["two", "a line\u2028separator"], None]
    path = write(tmp_path / "r.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n")
    assert data.read(path) == rows
    with pytest.raises(ValueError, match="line 2, column 6: no JSON"):
        data.read(write(tmp_path / "b.jsonl", '{"a": 1}\n{"a":\n'))
    with pytest.raises(ValueError, match="empty"):
        data.read(write(tmp_path / "e.jsonl", "\n"))


def test_safetensors_whole_and_truncated(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, path)
    assert torch.equal(data.read(path)["w"], torch.arange(6.0).reshape(2, 3))
    raw = path.read_bytes()
    for size in (4, len(raw) - 5):
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match=r"w\.safetensors is cut off"):
            data.read(path)


# images


def picture(path, size=(5, 4), mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Pillow.new(mode, size, 7).save(path)


def test_a_folder_of_images_with_and_without_labels(tmp_path):
    picture(tmp_path / "flat" / "b.png", (6, 3), "L")
    picture(tmp_path / "flat" / "a.jpg")
    write(tmp_path / "flat" / "notes.txt", "not an image, not called one")
    flat = data.read(tmp_path / "flat")
    assert isinstance(flat, ImageSet)
    assert flat.labels is None
    assert [i.shape for i in flat.images] == [(4, 5, 3), (3, 6, 3)]
    for label in ("good", "bad"):
        picture(tmp_path / label / "x.png")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "good").rename(tree / "good")
    (tmp_path / "bad").rename(tree / "bad")
    assert data.read(tree).labels.tolist() == ["bad", "good"]
    picture(tree / "loose.png")
    with pytest.raises(ValueError, match=r"loose\.png.*beside labelled folders \(bad, good\)"):
        data.read(tree)


def test_a_text_file_called_png_is_refused_by_name(tmp_path):
    picture(tmp_path / "set" / "a.png")
    write(tmp_path / "set" / "b.png", "hello, I am text")
    for path in (tmp_path / "set", tmp_path / "set" / "b.png"):
        with pytest.raises(ValueError, match=r"b\.png is called an image but is none: it starts with b'hello, I am '"):
            data.read(path)


def test_a_damaged_image_and_an_empty_folder(tmp_path):
    picture(tmp_path / "a.png", (64, 64))
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"a\.png is a damaged image"):
        data.read(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        data.read(tmp_path / "empty")


# the rest


def test_unknown_kinds_and_absent_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.read(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"'\.pkl' are not read; these are: .*\.csv"):
        data.read(write(tmp_path / "a.pkl", ""))
    with pytest.raises(ValueError, match="target='y' is for tables"):
        data.read(write(tmp_path / "a.jsonl", "1\n"), target="y")
