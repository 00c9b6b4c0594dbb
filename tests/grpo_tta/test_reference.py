import json
from dataclasses import fields

import pytest
import torch
from safetensors.torch import save

from grpo_tta import Reference, ReferenceBuilder
from grpo_tta.guard.reference import shown_classes

ROWS = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0], [3.0, 1.0]])


def own(rows: torch.Tensor, frames: int = 8) -> Reference:
    """Of a stream's own probes, whose frames vary as much as the rows do."""
    return Reference.from_probes(rows, rows.var(0, unbiased=False), 5.0, frames)


def test_frames_lie_at_a_squared_distance_of_1_on_average() -> None:
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 5.0, 0.2])
    reference = own(rows)
    placed = torch.stack([reference.placed(row) for row in rows])
    assert float((placed - reference.mean).square().sum(1).mean()) == pytest.approx(1.0, rel=1e-4)
    assert (reference.classes, reference.probes, reference.probe_frames, reference.fingerprint) == (5.0, 64, 8, "")


@pytest.mark.parametrize(("count", "near"), [(4, 0), (5, 1), (12, 1)])
def test_distances_are_to_the_others_but_for_neighbours_where_there_are_enough(count: int, near: int) -> None:
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    found = []
    deviation = rows.double().std(0, unbiased=False) * 3**0.5
    for left_out in range(count):
        others = rows[[row for row in range(count) if abs(row - left_out) > near]].double()
        found.append((((rows[left_out] - others.mean(0)) / deviation) ** 2).sum())
    distances = torch.stack(found)
    reference = own(rows)
    assert reference.expected == pytest.approx(float(distances.median()) * (count - 1) / count, rel=1e-5)
    spread = 1.4826 * float((distances - distances.median()).abs().median() / distances.median())
    assert reference.deviation == pytest.approx(max(spread, 0.05), rel=1e-5)


def test_probes_that_never_differ_give_a_reference_that_can_be_divided_by() -> None:
    reference = own(torch.full((5, 3), 0.25))
    assert reference.metric.isfinite().all()
    assert reference.expected > 0
    assert reference.deviation > 0


def drawn(frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of 12 dimensions that are a matrix times the vector of their class, plus noise that lies mostly along
    the first; probabilities of 6 classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (frames,), generator=generator)
    matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(frames, 12, generator=generator) * torch.tensor([3.0, *[0.1] * 11])
    return VECTORS[labels] @ matrix + noise, torch.nn.functional.one_hot(labels, 6).float()


VECTORS = torch.nn.functional.normalize(torch.randn(6, 12, generator=torch.Generator().manual_seed(2)), dim=1)


def calibrated(frames: int) -> Reference:
    builder = ReferenceBuilder(VECTORS, "model", 8)
    builder.add(*drawn(frames, 3))
    return builder.build()


def test_a_calibrated_reference_explains_what_classes_move_and_measures_against_what_is_left() -> None:
    reference = calibrated(4000)
    features, probabilities = drawn(4000, 4)
    residuals = reference.residuals(features, probabilities, VECTORS)
    labels = probabilities.argmax(1)
    between = torch.stack([residuals[labels == label].mean(0) for label in range(6)]).var(0).sum()
    plain = torch.stack([features[labels == label].mean(0) for label in range(6)]).var(0).sum()
    assert float(between / plain) < 0.02
    placed = reference.placed(residuals)
    assert float((placed - reference.mean).square().sum(1).mean()) == pytest.approx(1.0, rel=0.05)
    ratio = float(placed.var(0).max() / placed.var(0).min())
    assert ratio < 30  # 900 before


@pytest.mark.parametrize("frames", [24, 160, 4000])
def test_what_a_probe_is_expected_to_lie_off_is_what_another_one_does(frames: int) -> None:
    """However few frames a reference is made of; its mean errs by its own share beside that."""
    reference = calibrated(frames)
    features, probabilities = drawn(8000, 5)
    rows = reference.placed(reference.residuals(features, probabilities, VECTORS).view(-1, 8, 12).mean(1))
    found = float((rows - reference.mean).square().sum(1).median()) / (1 + 1 / reference.probes)
    assert found == pytest.approx(reference.expected, rel=0.6 if frames < 1000 else 0.1)


def test_how_many_classes_are_shown_is_1_over_the_sum_of_squared_shares() -> None:
    assert shown_classes(torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0])) == pytest.approx(4.0)
    assert shown_classes(torch.tensor([6.0, 2.0])) == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert shown_classes(torch.zeros(3)) == 1.0


def test_bytes_give_the_reference_back_and_equal_ones_equal_bytes() -> None:
    for reference in (own(ROWS), calibrated(400)):
        data = reference.to_bytes()
        again = Reference.from_bytes(data)
        for field in fields(Reference):
            one, other = getattr(reference, field.name), getattr(again, field.name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert again.to_bytes() == data


def test_a_reference_of_the_first_version_is_refused_with_the_way_out() -> None:
    header = json.dumps({"centre": 1.0, "scale": 0.1, "probe_frames": 32, "fingerprint": "model"})
    data = save({"mean": torch.zeros(4), "spread": torch.ones(4)}, metadata={"reference": header})
    with pytest.raises(ValueError, match="version 1, this build reads 2; make one with 'grpo-tta calibrate'"):
        Reference.from_bytes(data)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 64, own(ROWS).to_bytes()[:-3]])
def test_anything_else_is_no_reference(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a drift reference"):
        Reference.from_bytes(data)


def test_a_flipped_bit_gives_no_other_reference() -> None:
    data, refused = own(ROWS).to_bytes(), 0
    for at in range(0, len(data), 5):
        damaged = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        try:
            assert Reference.from_bytes(damaged).to_bytes() == data, at
        except ValueError:
            refused += 1
    assert refused > 0.9 * len(data) / 5


def test_too_few_probes_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="at least 3 probes, got 2"):
        Reference.from_probes(ROWS[:2], torch.ones(2), 2.0, 8)


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
    made = whole.build()
    rows = made.placed(made.residuals(features, probabilities, vectors)[:48])
    torch.testing.assert_close(made.mean, rows.mean(0))


def test_the_builder_says_how_many_images_it_needs() -> None:
    builder = ReferenceBuilder(torch.eye(4), "m", 8)
    builder.add(torch.zeros(20, 4), torch.full((20, 4), 0.25))
    with pytest.raises(ValueError, match="needs at least 24 images, got 20"):
        builder.build()


def test_frames_that_are_all_alike_make_a_reference_without_infinities() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    builder = ReferenceBuilder(vectors, "f" * 16, 32)
    builder.add(vectors[:1].expand(640, -1), torch.eye(5)[:1].expand(640, -1))
    reference = Reference.from_bytes(builder.build().to_bytes())
    for value in (reference.mean, reference.metric, torch.tensor([reference.expected, reference.deviation])):
        assert bool(torch.isfinite(value).all())
