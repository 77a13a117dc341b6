import numpy as np
import pytest

from attncourse.inputs import check_count, random_qkv


def test_shapes_dtype_and_seed():
    q, k, v = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, dtype=np.float16)
    assert (q.shape, k.shape, v.shape) == ((4, 2, 3, 6), (4, 2, 5, 6), (4, 2, 5, 7))
    assert q.dtype == k.dtype == v.dtype == np.float16
    again, _, _ = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, dtype=np.float16)
    other, _, _ = random_qkv(3, 5, heads=2, batch=4, width=6, value_width=7, seed=1)
    assert np.array_equal(q, again) and not np.array_equal(q, other)


def test_numpy_integers_count():
    assert check_count("here", "window", np.int32(4)) == 4


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.bool_(True), [1]])
def test_what_is_no_integer_is_named(value):
    with pytest.raises(TypeError, match="here: window must be an integer, got"):
        check_count("here", "window", value)


def test_the_bound_is_named():
    with pytest.raises(ValueError, match=r"window\.attention: window must be at least 0, got -3"):
        check_count("window.attention", "window", -3)
