import numpy as np
import pytest

from training.captions import ATTRIBUTES, DIRECTIONS, measure, movement
from training.edits import EDITS, FILLERS, FloatArray, edit, sentence, unedited


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
    assert one.caption == other.caption
    assert np.array_equal(one.image, other.image)
    assert one.image.dtype == np.float32
    assert 0 <= one.image.min() <= one.image.max() <= 1


def test_every_edit_is_drawn_and_does_what_the_caption_says(image: FloatArray) -> None:
    rng, drawn = np.random.default_rng(0), set[str]()
    for _ in range(200):
        edited = edit(image, rng)
        caption = edited.caption.replace("colourful", "colorful").replace(",", "")
        words = [word for word in EDITS if f" {word} " in f" {caption} "]
        drawn.update(words)
        assert len(words) in {1, 2}
        if len(words) == 1:
            assert movement(words[0], measure(image), measure(edited.image)) > 0.02
    assert drawn == set(EDITS)


def test_two_edits_at_once_are_of_two_measures(image: FloatArray) -> None:
    rng = np.random.default_rng(1)
    captions = [edit(image, rng).caption for _ in range(200)]
    assert not [text for text in captions if "warm" in text and "cool" in text]
    assert [text for text in captions if "warm" in text and "dark" in text]


def test_a_picture_that_is_not_edited_comes_with_a_caption_that_asks_for_nothing(
    image: FloatArray,
) -> None:
    rng = np.random.default_rng(2)
    told = [unedited(image, rng) for _ in range(50)]
    assert all(plain.image is image for plain in told)
    words = {word for plain in told for word in plain.caption.replace(",", "").split()}
    assert words & set(FILLERS)
    assert words - set(FILLERS)
    assert not words & {word for name in EDITS for word in name.split()}


def test_a_sentence_keeps_its_words_in_order() -> None:
    rng = np.random.default_rng(3)
    texts = [sentence(rng, ["dark", "low contrast"]) for _ in range(50)]
    assert all(0 <= text.index("dark") < text.index("low contrast") for text in texts)
    assert len(set(texts)) > 25
