"""Every entry opens with the shape and the hash that the catalogue says."""

import os
import re
import subprocess
import sys

import pytest

from gramian import data
from gramian.data import store
from gramian.lab import Missing

ALL = os.environ.get("GRAMIAN_TEST_ALL_DATA") == "1"
INSTALLED = [e.name for e in data.CATALOGUE.values() if e.kind in ("sklearn", "code")]
ALWAYS = [*data.TEST_SETS, *INSTALLED]


def opens_as_described(name: str) -> None:
    found = data.entry(name)
    assert data.load(name).shape == found.shape
    if found.sha256 and "convert" not in found.options:  # a converted file is another; its source was checked at fetch
        assert store.digest(store.files(found)) == found.sha256


@pytest.mark.data
@pytest.mark.parametrize("name", ALWAYS)
def test_entry_opens_as_described(name):
    try:
        data.path(name)
    except Missing as missing:
        pytest.skip(str(missing))
    opens_as_described(name)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="set GRAMIAN_TEST_ALL_DATA=1 after `gramian data fetch --all`")
@pytest.mark.parametrize("name", [n for n in data.names() if n not in ALWAYS])
def test_every_other_entry_opens_as_described(name):
    opens_as_described(name)


def test_importing_the_face_and_reading_the_catalogue_import_nothing_heavy():
    code = "import sys; from gramian import data; data.entry('etth1'); data.names(); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "gramian.data.catalogue" in loaded
    assert not {"numpy", "torch", "pandas", "sklearn", "scipy"} & set(loaded)


@pytest.mark.parametrize("name", ["japanese_vowels_eq", "JapaneseVowels_eq", "japanese-vowels-EQ", "JAPANESEVOWELSEQ"])
def test_names_ignore_case_and_separators(name):
    assert data.entry(name).name == "japanese_vowels_eq"


def test_a_mistyped_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'japanese_vowels'.*gramian data list"):
        data.entry("japanese_vowls")


def test_a_set_that_is_left_out_says_why():
    with pytest.raises(ValueError, match="left out: its package is a source distribution"):
        data.load("holzinger-swineford")


def test_entries_are_complete():
    for e in data.CATALOGUE.values():
        assert e.what, e.name
        assert e.shape, e.name
        assert e.licence or (e.wheel and e.wheel.licence), e.name
        if e.kind != "code":
            assert re.fullmatch(r"[0-9a-f]{64}", e.sha256), e.name
            assert e.files, e.name
        assert (e.kind == "file") == (e.wheel is not None), e.name
        assert len(e.urls) == (len(e.files) if e.kind == "public" else 0), e.name
        if e.wheel is not None:
            assert re.fullmatch(r"[0-9a-f]{64}", e.wheel.sha256), e.name


def test_what_the_tests_need_can_be_fetched():
    assert set(data.TEST_SETS) <= set(data.CATALOGUE)
    assert {data.entry(n).kind for n in data.TEST_SETS} == {"file"}


def test_an_unknown_attribute_names_what_there_is():
    with pytest.raises(AttributeError, match="'lode'; it has CATALOGUE"):
        _ = data.lode
