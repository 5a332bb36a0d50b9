import pytest

from gramian.atlas.errors import UserError
from gramian.atlas.find.cards import Shelf
from gramian.atlas.find.taxonomies import outline, read_taxonomy
from gramian.atlas.pages.site import paper_page


def write(folder, text):
    path = folder / "survey.py"
    path.write_text(f'"""A survey."""\n\n{text}\n')
    return path


def test_a_taxonomy_is_read_and_outlined_without_running_the_file(tmp_path):
    path = write(tmp_path, 'raise SystemExit\n\nTAXONOMY = {"cores": {"S4": "a.S4(8)", "S7": None}}')
    assert outline(read_taxonomy(path)) == ["- cores", "    - **S4**: `a.S4(8)`", "    - S7 (not yet)"]
    assert read_taxonomy(write(tmp_path, "OTHER = {}")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TAXONOMY = {'a': make()}", "TAXONOMY"),
        ("TAXONOMY = {'a': {}}", "branch 'a' is empty"),
        ("TAXONOMY = {'a': 'S4'}", "not a call"),
    ],
)
def test_a_taxonomy_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_taxonomy(write(tmp_path, text))


def test_a_surveys_page_shows_what_runs_and_what_does_not():
    page = paper_page(Shelf().paper("mamba_medical_survey"))
    assert "    - **S6**: `gramian.nn.state.mamba.Mamba(8, 8)`" in page
    assert "        - registration (not yet)" in page
