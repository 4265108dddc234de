import numpy as np
import pytest

from training.captions import ATTRIBUTES, DIRECTIONS, measure, movement
from training.edits import EDITS, FloatArray, edit


@pytest.fixture
def image() -> FloatArray:
    return np.random.default_rng(3).beta(2, 2, (24, 32, 3)).astype(np.float32)


def test_every_edit_has_a_word_that_captions_use() -> None:
    assert set(EDITS) <= set(ATTRIBUTES)
    assert EDITS.keys() == DIRECTIONS.keys()


@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize("word", EDITS)
def test_an_edit_keeps_the_promise_of_its_word(
    word: str, strength: float, image: FloatArray
) -> None:
    after = EDITS[word](image, strength).clip(0, 1)
    assert movement(word, measure(image), measure(after)) > 0.02


@pytest.mark.parametrize("word", EDITS)
def test_a_stronger_edit_does_more(word: str, image: FloatArray) -> None:
    weak, strong = (measure(EDITS[word](image, s).clip(0, 1)) for s in (0.0, 1.0))
    assert movement(word, weak, strong) > 0


def test_equal_generators_edit_alike_and_in_range(image: FloatArray) -> None:
    one, other = (edit(image, np.random.default_rng(5)) for _ in range(2))
    assert one.word == other.word
    assert np.array_equal(one.image, other.image)
    assert one.image.dtype == np.float32
    assert 0 <= one.image.min() <= one.image.max() <= 1


def test_every_edit_is_drawn(image: FloatArray) -> None:
    rng = np.random.default_rng(0)
    assert {edit(image, rng).word for _ in range(100)} == set(EDITS)
