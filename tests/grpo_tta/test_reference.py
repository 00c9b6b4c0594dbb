import pytest
import torch

from grpo_tta import Reference, ReferenceBuilder

ROWS = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0], [3.0, 1.0]])


def test_mean_and_spread_are_the_probes_own() -> None:
    reference = Reference.from_probes(ROWS, 8, "model")
    assert reference.mean.tolist() == [1.5, 2.5]
    assert reference.spread.tolist() == pytest.approx(ROWS.std(0).tolist())
    assert reference.fingerprint == "model"


@pytest.mark.parametrize(("count", "near"), [(4, 0), (5, 1), (12, 1)])
def test_centre_and_scale_are_of_distances_to_the_others_but_for_neighbours_where_there_are_enough(
    count: int, near: int
) -> None:
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    distances = []
    for left_out in range(count):
        others = rows[[row for row in range(count) if abs(row - left_out) > near]].double()
        distances.append((((rows[left_out] - others.mean(0)) / others.std(0)) ** 2).mean())
    distances = torch.stack(distances)
    reference = Reference.from_probes(rows, 8)
    assert reference.centre == pytest.approx(float(distances.median()))
    deviation = 1.4826 * float((distances - distances.median()).abs().median())
    assert reference.scale == pytest.approx(max(deviation, 0.05 * reference.centre))


def test_probes_in_pairs_of_a_class_are_no_farther_from_the_reference_than_its_own() -> None:
    """What a stream shows next in runs of two probes must not look like a shift: over 20 references."""
    medians = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(110, 8, generator=generator).repeat_interleave(2, 0)
        rows = rows + 0.01 * torch.randn(220, 8, generator=generator)
        reference = Reference.from_probes(rows[:20], 8)
        distances = ((rows[20:] - reference.mean) / reference.spread).square().mean(1)
        medians.append(float(((distances - reference.centre) / reference.scale).median()))
    assert sum(medians) / len(medians) < 0.5  # 1.1 where a probe's neighbours are not left out


def test_probes_that_never_differ_give_a_reference_that_can_be_divided_by() -> None:
    reference = Reference.from_probes(torch.full((5, 3), 0.25), 8)
    assert (reference.spread > 0).all()
    assert reference.scale > 0


def test_bytes_give_the_reference_back_and_equal_ones_equal_bytes() -> None:
    reference = Reference.from_probes(ROWS, 8, "model")
    data = reference.to_bytes()
    again = Reference.from_bytes(data)
    assert torch.equal(again.mean, reference.mean)
    assert torch.equal(again.spread, reference.spread)
    assert (again.centre, again.scale) == (reference.centre, reference.scale)
    assert (again.probe_frames, again.fingerprint) == (8, "model")
    assert Reference.from_probes(ROWS.clone(), 8, "model").to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 64, Reference.from_probes(ROWS, 8, "m").to_bytes()[:-3]])
def test_anything_else_is_no_reference(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a drift reference"):
        Reference.from_bytes(data)


def test_too_few_probes_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="at least 3 probes, got 2"):
        Reference.from_probes(ROWS[:2], 8)


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
