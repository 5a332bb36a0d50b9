import numpy as np
import pytest

from gramian.data.synthetic.season_domains import season_domains


def test_domains_differ_in_period_and_level():
    found = season_domains(3, 560, np.random.default_rng(0), periods=(8.0, 14.0), noise=0.1)
    assert found.min() > 0
    assert found.mean(1) == pytest.approx([10, 7, 4], abs=0.1)
    spectrum = np.abs(np.fft.rfft(found - found.mean(1, keepdims=True)))
    assert 560 / spectrum.argmax(1) == pytest.approx([8, 11, 14], rel=0.02)


def test_impossible_domains_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 1"):
        season_domains(0, 10, rng)
    with pytest.raises(ValueError, match="above 2"):
        season_domains(2, 10, rng, levels=(1.0, 5.0))
