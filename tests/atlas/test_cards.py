import ast

import pytest

from gramian.atlas.errors import UserError
from gramian.atlas.find import cards, names, search, sources
from gramian.atlas.find.cards import Shelf, planned, planned_card, read_card


def test_every_card_of_the_package_is_whole():
    shelf, collection = Shelf(), {r["slug"]: r for r in planned()}
    assert len(collection) == 236
    rows = [p.card.row for p in shelf.papers.values()]
    assert len(rows) == len(set(rows))
    for slug, paper in shelf.papers.items():
        card = paper.card
        assert int(collection[slug]["row"]) == card.row
        assert collection[slug]["topic"] == card.topic
        assert card.claim, f"{slug}: a card says what the paper claims"
        assert card.use, f"{slug}: a card shows how to use the method"
        ast.parse(card.use)
        assert card.api
        for dotted in card.api:
            assert sources.signature(dotted).summary, f"{dotted} needs a docstring"


def test_a_card_is_read_without_its_file_being_imported(tmp_path):
    folder = tmp_path / "topic"
    folder.mkdir()
    text = (
        'raise SystemExit("imported")\nCARD = Card(title="A (b) \\"c\\"", row=1, year=2020, kind="method",\n'
        '    idea="x)\\n)",\n)\n\ndef (\n'
    )
    (folder / "thing.py").write_text(text)
    card = read_card(folder / "thing.py")
    assert (card.title, card.idea, card.slug, card.topic) == ('A (b) "c"', "x)\n)", "thing", "topic")


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1\n", "holds an expression"), ('CARD = Card(title="T"\n', "does not end"),
     ("CARD = Card(title=str(1), row=1, year=1, kind='method', idea='i')\n", "title= in the card is not a literal"),
     ("CARD = Card(title='T', row=1, year=1, kind='poem', idea='i')\n", "not one of"),
     ("CARD = Card(title='T', row=1, year=1, kind='method', idea='i', rows=1)\n", "rows")],
)  # fmt: skip
def test_a_bad_card_is_explained(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=message):
        read_card(tmp_path / "bad.py")


def test_names_forgive_hyphens_and_suggest_the_nearest():
    known = ["s4d", "matrix_nuclear_norm"]
    assert names.resolve("Matrix-Nuclear-Norm", known, "paper", "gramian list") == "matrix_nuclear_norm"
    with pytest.raises(UserError, match=r"did you mean s4d\?.*gramian list"):
        names.resolve("s4dd", known, "paper", "gramian list")
    with pytest.raises(UserError, match="did you mean matrix_nuclear_norm"):
        names.resolve("nuclear", known, "paper", "gramian list")


def test_search_finds_papers_by_what_they_do():
    everything = [planned_card(r) for r in planned()]
    assert search.rank("forget data without retraining", everything)[0][0].slug == "ssd_unlearning"
    assert search.rank("linear mode connectivity", everything)[0][0].slug == "lmc_landscape"
    assert search.rank("zzz", everything) == []


def test_sources_follow_imports_and_ignore_comments(tmp_path, monkeypatch):
    package = tmp_path / "gramian"
    (package / "linalg").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "linalg" / "__init__.py").write_text("")
    (package / "linalg" / "used.py").write_text("x = 1\n")
    (package / "linalg" / "unused.py").write_text("x = 1\n")
    paper = package / "paper.py"
    paper.write_text("def experiment(run):\n    from gramian.linalg import used\n")
    monkeypatch.setattr(sources, "PACKAGE", package)

    def digest():
        sources._imports.cache_clear()
        sources._syntax.cache_clear()
        return sources.sources_hash(paper)

    assert [f.name for f in sources.reached(paper)] == ["__init__.py", "used.py", "paper.py"]
    first = digest()
    (package / "linalg" / "unused.py").write_text("x = 2\n")
    (package / "linalg" / "used.py").write_text("x = 1  # why\n")
    assert digest() == first
    (package / "linalg" / "used.py").write_text("x = 2\n")
    assert digest() != first


def test_signatures_come_from_the_source():
    entry = sources.signature("gramian.lab.run.Run.check")
    assert entry.text.startswith("check(self, claim: str, measured: Any")
    assert sources.signature("gramian.lab.run.Run").text.startswith("Run(out: Path | str")
    with pytest.raises(LookupError, match="no_such_name"):
        sources.signature("gramian.lab.run.no_such_name")


def test_options_are_documented_from_the_source(trial_shelf):
    options = dict(sources.experiment_options(trial_shelf.paper("holds").path))
    assert options["sizes: tuple[int, ...] = (1, 2)"] == "how large each trial is, one after the other."
    assert cards.read_card(trial_shelf.paper("holds").path).row == 901
