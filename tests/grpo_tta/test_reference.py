import pytest
import torch

from grpo_tta import Reference, ReferenceBuilder
from grpo_tta.reference import Probes, inflation, overlap

ROWS = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0], [3.0, 1.0]])


def probes(rows: torch.Tensor) -> Probes:
    """That show all of three classes alike, each frame surely one."""
    return Probes(rows, torch.ones(len(rows)), torch.full((3,), 1 / 3), 1.0)


def test_mean_and_spread_are_the_probes_own() -> None:
    reference = Reference.from_probes(probes(ROWS), 8, "model")
    assert reference.mean.tolist() == [1.5, 2.5]
    assert reference.spread.tolist() == pytest.approx(ROWS.std(0).tolist())
    assert reference.fingerprint == "model"


def test_centre_and_scale_are_of_leave_one_out_distances() -> None:
    distances = []
    for left_out in range(4):
        others = ROWS[[row for row in range(4) if row != left_out]].double()
        distances.append((((ROWS[left_out] - others.mean(0)) / others.std(0)) ** 2).mean())
    distances = torch.stack(distances)
    reference = Reference.from_probes(probes(ROWS), 8)
    assert reference.centre == pytest.approx(float(distances.median()))
    deviation = 1.4826 * float((distances - distances.median()).abs().median())
    assert reference.scale == pytest.approx(max(deviation, 0.05 * reference.centre))


def test_probes_that_never_differ_give_a_reference_that_can_be_divided_by() -> None:
    reference = Reference.from_probes(probes(torch.full((5, 3), 0.25)), 8)
    assert (reference.spread > 0).all()
    assert reference.scale > 0


def test_bytes_give_the_reference_back_and_equal_ones_equal_bytes() -> None:
    reference = Reference.from_probes(probes(ROWS), 8, "model")
    data = reference.to_bytes()
    again = Reference.from_bytes(data)
    assert torch.equal(again.mean, reference.mean)
    assert torch.equal(again.spread, reference.spread)
    assert torch.equal(again.shown, reference.shown)
    assert (again.centre, again.scale, again.overlap) == (reference.centre, reference.scale, reference.overlap)
    assert (again.probe_frames, again.fingerprint) == (8, "model")
    assert Reference.from_probes(probes(ROWS.clone()), 8, "model").to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 64, Reference.from_probes(probes(ROWS), 8, "m").to_bytes()[:-3]])
def test_anything_else_is_no_reference(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a drift reference"):
        Reference.from_bytes(data)


def test_a_reference_of_another_version_is_refused_with_both_versions() -> None:
    data = Reference.from_probes(probes(ROWS), 8, "m").to_bytes().replace(b'version\\": 2', b'version\\": 1')
    with pytest.raises(ValueError, match=r"not a drift reference: it is of version 1, this program's are of version 2"):
        Reference.from_bytes(data)


def test_distances_of_probes_that_show_few_classes_are_divided_by_what_that_adds() -> None:
    plain = Reference.from_probes(probes(ROWS), 8)
    inflated = Reference.from_probes(Probes(ROWS, torch.full((4,), 4.0), torch.full((3,), 1 / 3), 1.0), 8)
    assert inflated.centre == pytest.approx(plain.centre / 4)


def test_overlap_is_the_mean_dot_product_of_two_different_frames() -> None:
    frames = torch.softmax(torch.randn(10, 5, generator=torch.Generator().manual_seed(0)), 1)
    products = frames @ frames.T
    purity = float(products.diagonal().mean())
    expected = float((products.sum() - products.trace()) / 90)
    assert overlap(frames.mean(0), purity, 10) == pytest.approx(expected, abs=1e-6)
    assert overlap(frames[0], purity, 1) == 0.0


def test_a_probe_of_one_class_is_one_observation_and_one_like_the_reference_as_many_as_its_frames() -> None:
    classes, frames = 400, 32
    even = torch.full((classes,), 1 / classes)
    reference = overlap(even, 1.0, 10**6)
    one = torch.nn.functional.one_hot(torch.tensor(3), classes).float()
    assert inflation(one, 1.0, frames, even, reference) == pytest.approx(frames, rel=0.01)
    assert inflation(0.5 * one, 0.25, frames, even, reference) == pytest.approx(frames, rel=0.02)
    apart = torch.zeros(classes)
    apart[:frames] = 1 / frames
    assert inflation(apart, 1.0, frames, even, reference) == 1.0
    assert inflation(one, 1.0, frames, one, 1.0) == 1.0
    other = one.roll(1)
    assert inflation(other, 1.0, frames, one, 1.0) == 1 + 31 * 2


def test_probes_that_are_added_one_by_one_are_compared_with_those_before_them() -> None:
    shares = torch.softmax(3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), 1)
    made = Probes.none(6, 2)
    for row, shown in zip(ROWS, shares, strict=True):
        made = made.add(row, shown, 0.9, 8)
    assert torch.equal(made.rows, ROWS)
    torch.testing.assert_close(made.shown, shares.mean(0))
    assert made.purity == pytest.approx(0.9)
    before = shares[:3].mean(0)
    expected = inflation(shares[3], 0.9, 8, before, overlap(before, 0.9, 24))
    assert made.inflations.tolist()[0] == 1.0
    assert made.inflations.tolist()[3] == pytest.approx(expected)
    assert expected > 1


def test_too_few_probes_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="at least 3 probes, got 2"):
        Reference.from_probes(probes(ROWS[:2]), 8)


def test_the_builder_counts_whole_probes_however_the_frames_come() -> None:
    vectors = torch.eye(4)
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    probabilities = torch.softmax(features, 1)
    whole, parts = (ReferenceBuilder(vectors, "m", 8) for _ in range(2))
    whole.add(features, probabilities)
    for start in range(0, 50, 7):
        parts.add(features[start : start + 7], probabilities[start : start + 7])
    assert whole.frames == parts.frames == 48
    torch.testing.assert_close(whole.build().mean, parts.build().mean)
    rows = (features - probabilities)[:48].view(6, 8, 4).mean(1)
    torch.testing.assert_close(whole.build().mean, rows.mean(0))


def test_the_builder_says_how_many_images_it_needs() -> None:
    builder = ReferenceBuilder(torch.eye(4), "m", 8)
    builder.add(torch.zeros(20, 4), torch.full((20, 4), 0.25))
    with pytest.raises(ValueError, match="needs at least 24 images, got 20"):
        builder.build()
