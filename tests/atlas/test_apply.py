"""`gramian apply` writes a whole folder or none: what stood there before survives an interruption and a failure."""

import pytest

from gramian.atlas import apply
from gramian.atlas.errors import UserError
from gramian.tasks import adapt_at_test_time as task
from gramian.tasks.support import persistence


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_interruption_or_a_failure_leaves_the_old_output_and_no_half_file(tmp_path, monkeypatch):
    out = tmp_path / "out"
    apply.apply("adapt-at-test-time", "bn", out)
    before = contents(out)
    assert {"made.json", "predictions.csv"} <= {p.name for p in before}
    whole = persistence.save

    def cut(error):
        def save(model, folder):
            whole(model, folder)
            raise error

        return save

    for error, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (ValueError("disk"), UserError)):
        monkeypatch.setattr(persistence, "save", cut(error))
        with pytest.raises(seen):
            apply.apply("adapt-at-test-time", "tent", out)
        assert contents(out) == before
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
    monkeypatch.setattr(persistence, "save", whole)
    apply.apply("adapt-at-test-time", "tent", out)
    assert contents(out) != before
    assert task.AdaptedClassifier.load(out / "model" / "model.safetensors").statistics
