import numpy as np
import pytest
import torch

from bnn_lightning.binarizers import RSign
from bnn_lightning.models.backbone import check_size
from bnn_lightning.utils.checks import check_integer, check_number


def test_numbers_of_numpy_are_numbers() -> None:
    assert RSign(np.int64(4))(torch.zeros(1, 4)).shape == (1, 4)
    check_integer("width", np.uint8(3), 1, 3)
    check_size("width", np.int64(8), 8)
    check_number("flip", np.float32(0.5), "a probability", lambda share: 0 <= share <= 1)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float64(2), "2", None, np.int64(0), 4])
def test_what_is_no_integer_in_the_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="`width` must be a whole number between 1 and 3"):
        check_integer("width", value, 1, 3)


@pytest.mark.parametrize("value", [True, np.True_, np.float32(2), "1", None])
def test_what_is_no_number_in_the_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="`flip` must be a probability"):
        check_number("flip", value, "a probability", lambda share: 0 <= share <= 1)
