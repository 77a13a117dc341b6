from attncourse import claims
from attncourse.claims.finders import bottleneck


def test_every_square_that_autograd_keeps_is_counted_once():
    def tanh_first(q, k, v):
        return (q @ k.mT).tanh().softmax(-1) @ v

    assert bottleneck.saved_squares(tanh_first, n=32) == 2
    assert bottleneck.saved_squares(lambda q, k, v: q * k * v, n=32) == 0


def test_the_same_bill_is_compared_with_the_card_that_each_claim_names():
    assert "60.4% of the 16 GB" in claims.found("C187").value
    assert "96.6% of the 40 GB" in claims.found("C194").value
    assert claims.found("C286").value == claims.found("C194").value


def test_a_batch_fits_only_if_it_fits_in_one_layer_and_in_all():
    assert claims.found("C127").value == "198 texts if one layer counts, 16 if all 12 do"
    assert claims.found("C127").agrees is claims.found("C128").agrees is False
