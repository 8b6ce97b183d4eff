import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx.errors import DataError
from sardonyx.measure import Agreement, OutputKind

RNG = np.random.default_rng(0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def logits(rows=30, classes=10):
    x = np.random.default_rng(1).standard_normal((rows, classes)).astype(np.float32)
    x[np.arange(rows), np.arange(rows) % classes] += 4
    return x


def agree(reference, candidate, parts=1):
    total = Agreement(["y"])
    for r, c in zip(np.array_split(reference, parts), np.array_split(candidate, parts), strict=True):
        total.update([r], [c])
    return total.result().per_output[0]


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        (logits(), OutputKind.CLASS_SCORES),
        (softmax(logits()), OutputKind.CLASS_SCORES),
        (np.log(softmax(logits())), OutputKind.CLASS_SCORES),
        (softmax(np.zeros((5, 4), np.float32)), OutputKind.CLASS_SCORES),
        (logits()[:, :1], OutputKind.REGRESSION),
        (np.float32(3.0), OutputKind.REGRESSION),
        (RNG.standard_normal((20, 384)).astype(np.float32), OutputKind.REGRESSION),  # an embedding
        (RNG.uniform(0, 640, (50, 4)).astype(np.float32), OutputKind.REGRESSION),  # boxes in pixels
        (RNG.uniform(0, 1, (50, 4)).astype(np.float32), OutputKind.REGRESSION),  # boxes, relative
        (RNG.uniform(-99, 99, (50, 4)).astype(np.float32), OutputKind.REGRESSION),  # offsets
        (np.arange(6).reshape(2, 3), OutputKind.DISCRETE),
        (np.array([True, False]), OutputKind.DISCRETE),
        (np.array(["a", "b"], object), OutputKind.DISCRETE),
    ],
)
def test_tells_how_an_output_is_judged_and_the_original_agrees_fully(reference, kind):
    total = Agreement(["y"])
    total.update([reference], [reference])
    output = total.result().per_output[0]
    assert output.kind == kind
    assert output.value == 1.0


@given(st.floats(0.001, 1.0), st.floats(1.2, 4.0))
def test_more_noise_agrees_less(noise, more):
    reference = logits()
    direction = RNG.standard_normal(reference.shape).astype(np.float32)
    little = agree(reference, reference + np.float32(noise) * direction).value
    much = agree(reference, reference + np.float32(noise * more) * direction).value
    assert 0.0 <= much < little < 1.0


def test_class_scores_follow_the_formula():
    p, q = softmax(logits()).astype(np.float64), softmax(logits() + 1.5 * RNG.standard_normal((30, 10)))
    brier = ((p - q) ** 2).sum() / (p**2).sum()
    error = ((p - q) ** 2).sum() / ((p - p.mean()) ** 2).sum()
    assert agree(p, q.astype(np.float64)).value == pytest.approx(1 - (brier + error / 2) / 2)


def test_regression_is_the_share_of_variance_explained():
    r, c = RNG.standard_normal((2, 40, 1))
    c = r + 0.3 * c
    expected = 1 - ((r - c) ** 2).sum() / ((r - r.mean()) ** 2).sum()
    assert agree(r, c).value == pytest.approx(expected)


@pytest.mark.parametrize("reference", [logits(), RNG.standard_normal((30, 1)) + 100.0])
def test_does_not_depend_on_how_the_rows_are_split_into_samples(reference):
    candidate = reference + 0.1
    whole, parts = agree(reference, candidate), agree(reference, candidate, parts=7)
    assert parts.kind == whole.kind
    assert parts.value == pytest.approx(whole.value)


def test_integer_outputs_count_equal_elements():
    assert agree(np.arange(4), np.array([0, 1, 2, 9])).value == 0.75


def test_a_constant_output_is_judged_by_its_own_size():
    ones = np.ones((5, 1), np.float32)
    assert agree(ones, ones).value == 1.0
    assert agree(ones, ones * np.float32(1.01)).value == pytest.approx(1 - 1e-4, abs=1e-6)
    assert agree(0 * ones, ones).value == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_new_nan_or_infinity_is_no_agreement(bad):
    candidate = logits()
    candidate[3, 2] = bad
    assert agree(logits(), candidate).value == 0.0
    assert agree(candidate, candidate).value == 1.0


def test_another_shape_or_dtype_is_no_agreement():
    total = Agreement(["shape", "dtype"])
    total.update([np.ones((1, 2)), np.ones(2)], [np.ones((2, 1)), np.ones(2, np.float32)])
    assert [o.value for o in total.result().per_output] == [0.0, 0.0]


def test_the_worst_output_decides():
    total = Agreement(["good", "bad"])
    ids = np.arange(4)
    total.update([ids, ids], [ids, ids[::-1]])
    result = total.result()
    assert (result.value, result.samples) == (0.0, 1)
    assert [o.name for o in result.per_output] == ["good", "bad"]


def test_samples_of_varying_shape_and_empty_ones_are_normal():
    total = Agreement(["y"])
    for rows in (3, 1, 0, 5):
        scores = logits(max(rows, 1))[:rows]
        total.update([scores], [scores])
    assert total.result().value == 1.0


def test_no_samples_is_a_data_error():
    with pytest.raises(DataError, match="at least one sample"):
        Agreement(["y"]).result()


def unit(noise=0.0, count=24):
    x = np.random.default_rng(5).standard_normal((count, 64))
    x[1::2] += x[::2]  # pairs that resemble one another
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (x + noise * np.random.default_rng(6).standard_normal(x.shape)).astype(np.float32)


class TestEmbeddings:
    """Rows of length 1 are judged by their pairwise similarities."""

    def test_the_loss_is_that_of_the_similarities(self):
        reference, candidate = unit(), unit(0.02)
        result = agree(reference, candidate, parts=6)
        a, b = (x @ x.T for x in (reference, candidate / np.linalg.norm(candidate, axis=1, keepdims=True)))
        pairs = np.triu_indices(24, k=1)
        assert result.kind is OutputKind.EMBEDDINGS
        assert result.value == pytest.approx(np.corrcoef(a[pairs], b[pairs])[0, 1], abs=1e-6)

    def test_scaling_a_row_changes_nothing_and_mixing_rows_does(self):
        reference = unit()
        assert agree(reference, 3 * reference).value == pytest.approx(1.0)
        assert agree(reference, np.roll(reference, 1, axis=0)).value < 0.5

    @pytest.mark.parametrize("reference", [unit(count=4), 2 * unit(), unit()[:, :8]])
    def test_few_long_or_narrow_rows_are_regression(self, reference):
        assert agree(reference, reference).kind is OutputKind.REGRESSION

    def test_a_collapsed_candidate_agrees_not_at_all(self):
        reference = unit()
        assert agree(reference, np.tile(reference[:1], (24, 1))).value == pytest.approx(0.0, abs=1e-6)


def ratings(rows=24, seed=2):
    """Four ratings on four scales, each of which varies little beside the distance between them."""
    x = np.random.default_rng(seed).standard_normal((rows, 4))
    return (np.array([4.7, 5.0, 0.0, 1.0]) + 0.1 * x).astype(np.float32)


def test_quantities_on_scales_of_their_own_are_not_precise_because_the_scales_differ():
    r = ratings()
    c = r + 0.1 * np.random.default_rng(3).standard_normal(r.shape).astype(np.float32)
    expected = 1 - ((r - c) ** 2).sum() / ((r - r.mean(0)) ** 2).sum()
    for parts in (1, len(r)):
        assert agree(r, c, parts).value == pytest.approx(max(0.0, expected), abs=1e-6)
    assert ((r - c) ** 2).sum() < 0.01 * ((r - r.mean()) ** 2).sum()


def test_one_sample_has_no_variance_within_positions_and_is_judged_by_all_of_it():
    r = ratings(rows=1) + 10  # none below zero: no class scores
    expected = 1 - 0.1**2 * 4 / ((r - r.mean()) ** 2).sum()
    assert agree(r, r + np.float32(0.1)).value == pytest.approx(expected, abs=1e-5)


def test_samples_of_another_length_are_judged_about_one_mean():
    long, short = ratings(), ratings()[:, :3]
    total = Agreement(["y"])
    for r in (long, short):
        total.update([r], [r + np.float32(0.1)])
    r = np.concatenate([long.ravel(), short.ravel()]).astype(np.float64)
    expected = 1 - 0.1**2 * r.size / ((r - r.mean()) ** 2).sum()
    assert total.result().value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("count", "quantile"), [(8, 2.733), (18, 9.390), (60, 43.188), (99, 77.046)])
def test_few_numbers_allow_a_loss_as_large_as_chi_square_leaves_likely(count, quantile):
    r = np.random.default_rng(4).standard_normal((count, 1)).astype(np.float32)
    total = Agreement(["y"])
    total.update([r], [r + np.float32(0.01)])
    result = total.result()
    assert result.doubtful
    expected = 1 - (1 - result.value) * count / quantile  # quantiles of 5 % from tables
    assert result.least == pytest.approx(expected, abs=0.03 * (1 - expected))  # 3 %: the approximation


@pytest.mark.parametrize("count", [1, 100])
def test_the_least_agreement_is_the_agreement_of_an_equal_model_and_of_many_numbers(count):
    r = np.random.default_rng(4).standard_normal((count, 1)).astype(np.float32)
    total = Agreement(["y"])
    total.update([r], [r + np.float32(0.01 if count == 100 else 0)])
    result = total.result()
    assert result.least == result.value
