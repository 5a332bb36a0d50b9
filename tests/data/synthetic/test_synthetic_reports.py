import pytest
import torch

from gramian.data import ngrams
from gramian.data.synthetic import reports


def made(count=60, seed=0, **settings):
    return reports.findings_and_impressions(count, torch.Generator().manual_seed(seed), **settings)


def test_equal_generators_give_equal_reports():
    assert made() == made()
    assert made() != made(seed=1)


def test_the_impression_is_told_in_the_findings():
    found = made()
    assert {len(r.abnormal) for r in found} == {0, 2, 4}
    for report in found:
        sentences = ngrams.sentences_of(report.findings)
        told = {w for i in report.abnormal for w in ngrams.words(sentences[i])}
        if report.abnormal:
            assert set(ngrams.words(report.impression)) <= told
            first = ngrams.words(sentences[report.abnormal[0]])
            assert set(ngrams.words(ngrams.sentences_of(report.impression)[0])[:3]) & set(first)
        else:
            assert report.impression == reports.NOTHING
        assert 2 <= len(sentences) - len(report.abnormal) <= 4


@pytest.mark.parametrize("settings", [{"count": 0}, {"most": 13}, {"most": -1}, {"normal": (0, 2)}, {"normal": (3, 2)}])
def test_bad_arguments(settings):
    with pytest.raises(ValueError, match="are needed"):
        made(**settings)
