import pytest

import engines
from engines.errors import SHOWN, EngineError, WeightsError


def test_errors_of_weights_are_engine_errors_and_no_value_errors() -> None:
    assert issubclass(WeightsError, EngineError)
    assert not issubclass(EngineError, ValueError)


def test_the_package_exports_its_errors() -> None:
    assert (engines.EngineError, engines.WeightsError) == (EngineError, WeightsError)


@pytest.mark.parametrize("count", range(1, SHOWN + 1))
def test_up_to_five_keys_are_all_named(count: int) -> None:
    keys = [f"block.{i}" for i in range(count)]
    message = str(WeightsError.of_keys("vae", "missing", keys))
    assert message == f"vae: {count} missing key(s): {', '.join(keys)}"


def test_of_more_keys_the_first_five_are_named_and_the_rest_counted() -> None:
    message = str(WeightsError.of_keys("vae", "unexpected", list("abcdefgh")))
    assert message == "vae: 8 unexpected key(s): a, b, c, d, e and 3 more"


def test_of_keys_makes_an_error_of_its_own_class() -> None:
    assert type(WeightsError.of_keys("vae", "missing", ["a"])) is WeightsError
