"""Online: the recipe as it is written, updates at fixed frames, streams that never see each other."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_runs import assert_close, assert_same, run
from torch import Tensor

from grpo_tta import Batch, Classifier, GrpoSettings, State, create_method
from grpo_tta.classifier import digest_tensors
from grpo_tta.methods.grpo_episodic import EpisodicGrpo
from grpo_tta.methods.grpo_online import OnlineGrpo
from grpo_tta.methods.known import Known, Window
from grpo_tta.optimiser import adam_in_bytes
from grpo_tta.owners import stack, unstack
from grpo_tta.rewards import marginal_dispersion, runner_up
from grpo_tta.whitening import in_bytes, unit_rows

Batches = Callable[..., Batch]
Classifiers = Callable[..., Classifier]


def online(classifier: Classifier, **changes: Any) -> OnlineGrpo:
    return OnlineGrpo(classifier, GrpoSettings(**{"update_every": 16, **changes}))


def seeing(classifier: Classifier, batches: Batches) -> Classifier:
    """The same tower with images for classes, at a scale that tells them apart: what a random one is trusted with."""
    features = classifier.features(classifier.normalise(batches(classifier.classes, start=9000).canvases))
    apart = 1 - float((features @ features.T).mean())
    return Classifier(
        classifier.visual,
        classifier.class_names,
        features,
        classifier.preprocess,
        logit_scale=10 / apart,
        ensemble_vectors=classifier.ensemble_vectors,
    )


@pytest.mark.parametrize(("tower", "views", "sizes"), [("vit", 1, (1, 7, 64)), ("hybrid", 4, (7, 64))])
def test_batches_of_any_size_give_the_same_updates_at_the_same_frames(
    request: pytest.FixtureRequest, batches: Batches, tower: str, views: int, sizes: tuple[int, ...]
) -> None:
    method = online(seeing(request.getfixturevalue(tower), batches), views=views)
    batch = batches(75)
    results = [run(method, batch, size) for size in sizes]
    labels, state, reports = results[-1]
    assert state["frames"] == 75
    assert state["updates"] == 4
    assert float(torch.as_tensor(state["trust"])) > 0.5
    for other_labels, other, other_reports in results[:-1]:
        assert torch.equal(other_labels.argmax(1), labels.argmax(1))
        assert_close(other, state)
        seen = [(u.frame, u.update, u.images) for report in other_reports for u in report.updates]
        assert seen == [(u.frame, u.update, u.images) for report in reports for u in report.updates]
    assert [u.frame for report in reports for u in report.updates] == [16, 32, 48, 64]


def warmed(method: OnlineGrpo, batches: Batches) -> State:
    """The state after three windows, trusted by half whatever they showed, with something learnt for a pull to take."""
    _, state, _ = run(method, batches(48, start=300), 16)
    learnt = 0.02 * torch.randn(method.fast_weights.size, generator=torch.Generator().manual_seed(1))
    return {**state, "trust": torch.tensor(0.5), "weight": torch.tensor(0.4), "learnt": learnt.half()}


def test_one_update_is_the_written_recipe(classifier: Classifier, batches: Batches) -> None:
    classifier = seeing(classifier, batches)
    method = online(classifier, group_size=5, marginal_frames_per_class=20, learning_rate=0.01)
    state, batch = warmed(method, batches), batches(16)
    prediction, new, report = method.step(batch, state)

    known, owner = Known.of(stack([state], classifier.device)), torch.zeros(16, dtype=torch.int64)
    assert known.own is not None
    assert known.own_ring is not None
    pixels = classifier.normalise(batch.canvases)
    frozen_features = classifier.features(pixels)
    frozen = classifier.probabilities(frozen_features)
    teacher = known.teacher(frozen_features[:, None], owner, classifier)[:, 0].exp()
    theta = (method.fast_weights.start + state["learnt"].float()).requires_grad_()
    features = classifier.features(pixels, method.fast_weights.overrides(theta))
    log_own = known.served(features[:, None], owner, classifier)[:, 0]
    log_policy = (log_own + 0.5 * marginal_dispersion(state["own_marginal"])).log_softmax(-1)
    old = log_policy.detach().exp()
    group = teacher.topk(5).indices
    reward = (teacher + 0.3 * 0.5 * marginal_dispersion(state["marginal"])).gather(1, group)
    weights = old.gather(1, group) / old.gather(1, group).sum(1, keepdim=True)
    advantage = reward - (weights * reward).sum(1, keepdim=True)
    loss = -(weights * advantage * log_policy.gather(1, group)).sum(1)
    loss = loss - 0.3 * (log_policy.exp() * log_policy).sum(1)
    classes = torch.cat([state["ring_classes"], teacher.argmax(1)])
    others = unit_rows(torch.cat([known.own_ring[0], in_bytes(features.detach())]))
    for row in range(16):
        last = slice(row, row + 16)
        kinds = [kind for kind in classes[last].unique() if kind != classes[16 + row]]
        means = torch.stack([others[last][classes[last] == kind].mean(0) for kind in kinds])
        push = 2 * 20 * state["squeezed"] * (means @ features[row]).mean()
        loss = loss + (torch.arange(16) == row) * push
    (gradient,) = torch.autograd.grad(loss.mean(), theta)
    now = known.with_frames(owner, torch.arange(16), frozen_features, features.detach())
    after, window = now.after_window(classifier, torch.tensor([4]), 480)
    change, _, _ = adam_in_bytes(
        gradient,
        torch.as_tensor(state["adam_m"]),
        torch.as_tensor(state["adam_v"]),
        step=torch.tensor(4.0, dtype=torch.float64),
        rate=0.01 * after.trust,
    )
    expected = (state["learnt"].float() + change) * (1 - 0.01 * (10 - 9 * float(after.trust)))
    assert 0.1 < float(after.trust) < 0.9
    assert float(change.abs().max()) > 1e-3
    torch.testing.assert_close(new["learnt"].float(), expected, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(prediction.probabilities, old)
    kept = math.exp(-16 / (20 * 24))
    for name, shown in (("marginal", window.teacher), ("own_marginal", window.own)):
        torch.testing.assert_close(new[name], kept * state[name] + (1 - kept) * runner_up(shown[0]).mean(0))
    for name, value in unstack(after.columns())[0].items():
        torch.testing.assert_close(new[name], value, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(report.probabilities, classifier.probabilities(features.detach()))
    (update,) = report.updates
    assert update.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-3)
    assert update.reward == pytest.approx(float(reward.mean()), rel=1e-3)
    assert update.disagreement == float((old.argmax(1) != frozen.argmax(1)).float().mean())
    assert update.forward_equivalents == 4
    assert report.forward_equivalents == 4 * 16
    assert not new["grad"].any()


def test_a_frame_is_labelled_before_its_own_update(classifier: Classifier, batches: Batches) -> None:
    method = online(seeing(classifier, batches), learning_rate=0.05)
    prediction, state, _ = method.step(batches(32), method.initial_state())
    first = method.predict(batches(16), method.initial_state()).probabilities
    torch.testing.assert_close(prediction.probabilities[:16], first, atol=1e-4, rtol=1e-3)
    assert prediction.frozen is not None
    assert not torch.allclose(prediction.probabilities[16:], prediction.frozen[16:], atol=1e-3)
    assert not torch.allclose(method.predict(batches(16), state).probabilities, first, atol=1e-3)


def test_a_step_changes_neither_its_state_nor_the_classifier(classifier: Classifier, batches: Batches) -> None:
    method = online(classifier)
    _, state, _ = method.step(batches(20), method.initial_state())
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    weights = digest_tensors(classifier.visual.state_dict())
    method.step(batches(40, start=20), state)
    assert_same(state, before)
    assert digest_tensors(classifier.visual.state_dict()) == weights
    assert all(not value.requires_grad for value in state.values() if isinstance(value, Tensor))


def test_two_streams_never_see_each_other(classifier: Classifier, batches: Batches) -> None:
    method = online(classifier)
    streams = {"a": batches(64), "b": batches(64, start=500)}
    alone = {name: run(method, batch, 8) for name, batch in streams.items()}
    states = {name: method.initial_state() for name in streams}
    labels: dict[str, list[Tensor]] = {name: [] for name in streams}
    for start in range(0, 64, 8):
        batches_now = [batch[start : start + 8] for batch in streams.values()]
        for name, step in zip(streams, method.step_many(batches_now, list(states.values())), strict=True):
            states[name] = step[1]
            labels[name].append(step[0].probabilities)
    for name, (expected, state, _) in alone.items():
        torch.testing.assert_close(torch.cat(labels[name]), expected, atol=1e-4, rtol=1e-3)
        assert_close(states[name], state)


def test_initial_state_is_new_every_time_and_a_reset_is_exact(classifier: Classifier, batches: Batches) -> None:
    method = online(classifier)
    fresh = method.initial_state()
    expected, _, _ = run(method, batches(32), 8)
    assert_same(method.initial_state(), fresh)
    again, _, _ = run(method, batches(32), 8)
    assert torch.equal(again, expected)
    assert len({value.data_ptr() for value in fresh.values() if isinstance(value, Tensor)}) == sum(
        isinstance(value, Tensor) for value in fresh.values()
    )


def test_pull_moves_theta_towards_the_start_and_nothing_else(vit: Classifier, batches: Batches) -> None:
    method = online(vit)
    _, state, _ = run(method, batches(40), 8)
    half, whole, none = (method.pull(state, strength) for strength in (0.5, 1.0, 0.0))
    assert not whole["learnt"].any()
    assert torch.equal(none["learnt"], state["learnt"])
    torch.testing.assert_close(half["learnt"], state["learnt"] / 2, atol=1e-7, rtol=1e-3)
    assert_same({**half, "learnt": state["learnt"]}, state)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"strength must be in \[0, 1\]"):
            method.pull(state, strength)


def test_values_that_are_not_finite_are_reported_and_not_accumulated(vit: Classifier, batches: Batches) -> None:
    method = online(vit)
    _, state, report = method.step(batches(4), method.initial_state())
    assert report.finite
    broken = {**state, "learnt": state["learnt"] * float("nan")}
    _, after, report = method.step(batches(4, start=4), broken)
    assert not report.finite
    assert after["frames"] == 8
    for name in ("grad", "sums"):
        assert torch.equal(after[name], state[name])
    for name in ("ring", "own_ring"):  # as if the frames had not been there, whatever was in their places before
        assert torch.equal(after[name][:4], state[name][:4])
        assert not after[name][4:8].any()


def test_a_report_has_a_row_an_image(classifier: Classifier, batches: Batches) -> None:
    method = online(classifier)
    prediction, _, report = method.step(batches(21), method.initial_state())
    assert len(report) == 21
    assert report.frozen_probabilities is prediction.frozen
    assert report.frozen_features is not None
    torch.testing.assert_close(report.frozen_features.norm(dim=1), torch.ones(21))
    for tensor in (report.probabilities, report.frozen_probabilities, report.frozen_features):
        assert tensor is not None
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


@pytest.mark.parametrize(
    "changes",
    [
        {"tune": "lora"},
        {"alignment": "frozen"},
        {"similarity": "plain"},
        {"feature_dispersion": 0.0, "certainty": 0.0},
        {"alignment": "whitened", "views": 3},
        {"tune": "full"},
        {"group_mode": "gumbel", "seed": 5},
        {"alignment": "consensus", "views": 4},
        {"alignment": "view"},
        {"alignment": "ensemble"},
        {"dispersion": "probability", "alignment": "consensus", "views": 3},
        {"dispersion": "text"},
        {"dispersion": "none"},
        {"advantage": "zscore"},
        {"kl": 0.5},
    ],
)
def test_every_setting_learns_and_stays_batch_invariant(
    classifiers: Classifiers, batches: Batches, changes: dict[str, Any]
) -> None:
    vectors = torch.randn(24, 32, generator=torch.Generator().manual_seed(9))
    rated = {"learning_rate": 0.01} if changes.get("tune") != "full" else {"learning_rate": 1e-4}
    method = online(seeing(classifiers(ensemble_vectors=vectors), batches), update_every=8, **{**rated, **changes})
    batch = batches(20)
    labels, state, reports = run(method, batch, 20)
    other_labels, other, _ = run(method, batch, 3)
    assert torch.equal(labels.argmax(1), other_labels.argmax(1))
    assert_close(other, state)
    assert reports[0].finite
    assert float(state["learnt"].abs().max()) > 1e-5
    views = method.settings.views
    assert reports[0].forward_equivalents == 20 * (views + 3 * method.settings.confident_views)


def test_another_frozen_model_can_reward(classifiers: Classifiers, vit: Classifier, batches: Batches) -> None:
    base = classifiers()
    settings = GrpoSettings(alignment="reward_model", dispersion="none", update_every=8, learning_rate=5e-3)
    method = create_method("grpo", base, settings, reward_model=vit)
    batch = batches(8)
    _, _, report = method.step(batch, method.initial_state())
    frozen = base.probabilities(base.features(base.normalise(batch.canvases)))
    other = vit.probabilities(vit.features(vit.normalise(batch.canvases)))
    expected = other.gather(1, frozen.topk(10).indices).mean()
    assert report.updates[0].alignment == pytest.approx(float(expected), rel=1e-4)
    assert report.forward_equivalents == 8 * 5


def test_what_a_reward_needs_is_asked_for(vit: Classifier, classifiers: Classifiers) -> None:
    with pytest.raises(ValueError, match="alignment 'ensemble' needs ensemble vectors: give load_classifier"):
        online(vit, alignment="ensemble")
    with pytest.raises(ValueError, match="go together, got 'reward_model'"):
        online(vit, alignment="reward_model")
    with pytest.raises(ValueError, match="go together, got 'whitened'"):
        OnlineGrpo(vit, GrpoSettings(), vit)
    with pytest.raises(ValueError, match="the reward model must have the same class names"):
        OnlineGrpo(vit, GrpoSettings(alignment="reward_model"), classifiers(classes=23))


def test_modes_and_empty_batches_are_refused_where_they_do_not_belong(vit: Classifier, batches: Batches) -> None:
    with pytest.raises(ValueError, match="mode must be 'online' here, got 'episodic': use EpisodicGrpo"):
        OnlineGrpo(vit, GrpoSettings.episodic())
    with pytest.raises(ValueError, match="mode must be 'episodic' here, got 'online': use OnlineGrpo"):
        EpisodicGrpo(vit, GrpoSettings())
    method = online(vit)
    with pytest.raises(ValueError, match="a batch must hold at least one image, got 0"):
        method.step(batches(1)[0:0], method.initial_state())


def test_adaptation_follows_the_reward(classifiers: Classifiers, batches: Batches) -> None:
    """With the frozen encoder's own favourite rewarded, predictions sharpen around it."""
    changes: dict[str, Any] = {"dispersion": "none", "feature_dispersion": 0.0, "certainty": 0.0}
    changes |= {"alignment": "frozen", "similarity": "plain", "logit_adjustment": 0.0}
    method = online(seeing(classifiers(), batches), learning_rate=1e-3, pull=0.0, update_every=8, **changes)
    shown = batches(160)
    _, state, _ = run(method, shown, 16)
    before = method.predict(shown, method.initial_state()).probabilities
    after = method.predict(shown, state).probabilities
    favourites = before.argmax(1, keepdim=True)
    assert after.gather(1, favourites).mean() > before.gather(1, favourites).mean() + 0.003


def test_a_reset_by_a_shift_keeps_the_parameters_and_nothing_else(classifier: Classifier, batches: Batches) -> None:
    method = online(classifier)
    _, state, _ = run(method, batches(40), 8)
    kept, initial = method.after_shift(state, reset=True), method.initial_state()
    assert kept.keys() == initial.keys()
    assert torch.equal(kept["learnt"], state["learnt"])
    assert not torch.equal(kept["learnt"], initial["learnt"])
    assert_same({**kept, "learnt": initial["learnt"]}, initial)


def test_a_window_of_which_no_frame_counts_leaves_the_marginal() -> None:
    rows = torch.rand(2, 16, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    counted = torch.stack([torch.zeros(16), torch.ones(16)])
    marginal = torch.full((2, 5), 0.2)
    after = Window(rows, rows, None, counted).marginal_after(marginal, rows, 80.0)
    torch.testing.assert_close(after[0], marginal[0])
    kept = math.exp(-16 / 80)
    torch.testing.assert_close(after[1], kept * marginal[1] + (1 - kept) * runner_up(rows[1]).mean(0))


def test_a_stream_of_one_class_is_labelled_by_plain_cosines(classifier: Classifier, batches: Batches) -> None:
    seen = seeing(classifier, batches)
    one = batches(1, start=9003)
    stream = Batch(one.canvases.repeat(96, 1, 1, 1), torch.arange(96))
    labels, _, _ = run(create_method("whitened", seen), stream, 16)
    frozen, _, _ = run(create_method("zero-shot", seen), stream, 16)
    torch.testing.assert_close(labels, frozen, atol=1e-5, rtol=1e-4)
    many, _, _ = run(create_method("whitened", seen), batches(96, start=9000), 16)
    plain, _, _ = run(create_method("zero-shot", seen), batches(96, start=9000), 16)
    assert not torch.allclose(many, plain, atol=1e-2)
