from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from spherood.data.samples import read_sample
from spherood.errors import ConfigError


def test_the_digits_are_those_of_scikit_learn_spread_to_0_to_255() -> None:
    found, theirs = read_sample("digits"), load_digits()
    assert len(found) == 1797
    assert found.label.tolist() == theirs.target.tolist()
    assert found.classes == tuple("0123456789")
    read = np.stack([np.asarray(found.read(row)) for row in range(50)])
    assert np.abs(read / 255 * 16 - theirs.images[:50, ..., None]).max() <= 0.5 / 255 * 16 + 1e-12
    assert (read.min(), read.max()) == (0, 255)
    assert found.names[17] == f"digits/{theirs.target[17]} no. 17"


def test_the_photographs_are_cut_into_patches_that_say_where() -> None:
    found, theirs = read_sample("photographs"), load_sample_images()
    assert len(found) == 2 * (427 // 32) * (640 // 32)
    assert found.classes == ()
    assert set(found.label.tolist()) == {-1}
    row = 20 + 3  # the second row of patches, the fourth in it
    assert found.names[row] == "china.jpg at 96, 32"
    assert np.array_equal(np.asarray(found.read(row)), theirs.images[0][32:64, 96:128])


def test_noise_is_the_same_at_every_call() -> None:
    first, second = read_sample("noise"), read_sample("noise")
    assert first.fingerprint() == second.fingerprint()
    assert (len(first), np.asarray(first.read(0)).shape) == (300, (32, 32, 3))


def test_an_unknown_sample_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"sample: there is no 'digit'\. Did you mean 'digits'\?"):
        read_sample("digit")
