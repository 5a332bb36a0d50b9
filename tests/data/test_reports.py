import pytest

from gramian.data.reports import read_reports


def test_columns_by_name_and_blanks_joined(tmp_path):
    path = tmp_path / "reports.csv"
    path.write_text(
        'uid,Findings,IMPRESSION\n1,"Clear lungs.\nNormal heart.",Normal.\n2,,Effusion.\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="report 2 has an empty 'findings'"):
        read_reports(path)
    assert read_reports(path, skip_empty=True) == [("Clear lungs. Normal heart.", "Normal.")]
    with pytest.raises(ValueError, match=r"no column 'summary'.*uid"):
        read_reports(path, impression="summary")


def test_no_report_left(tmp_path):
    path = tmp_path / "reports.csv"
    path.write_text("findings,impression\n,Normal.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no report"):
        read_reports(path, skip_empty=True)
    with pytest.raises(FileNotFoundError):
        read_reports(tmp_path / "none.csv")
