"""A ViT-B/16 with random weights through both modes, its state's size, and the same on CUDA."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from grpo_tta import Batch, Classifier, GrpoSettings, Method, ModelSettings, State, create_method, load_classifier

Batches = Callable[..., Batch]


def tensors(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "episodic"])
def test_vit_b_16_goes_through_both_modes(mode: str, batches: Batches) -> None:
    names = [f"thing {number}" for number in range(50)]
    classifier = load_classifier(ModelSettings("ViT-B-16", "random", "cpu"), class_names=names)
    settings = GrpoSettings.for_mode(mode, **({"update_every": 4} if mode == "online" else {}))
    method = create_method("grpo", classifier, settings)
    batch = batches(6, size=224)
    prediction, state, report = method.step(batch, method.initial_state())
    assert prediction.probabilities.shape == (6, 50)
    assert report.finite
    assert len(report.updates) == 1
    assert state["frames"] == 6


@pytest.mark.slow
def test_vit_b_16_state_is_small() -> None:
    names = [f"thing {number}" for number in range(1000)]
    vectors = torch.randn(1000, 512)
    visual = load_classifier(ModelSettings("ViT-B-16", "random", "cpu"), class_names=names[:2])
    classifier = Classifier(visual.visual, names, vectors, visual.preprocess, logit_scale=100.0)
    state = create_method("grpo", classifier).initial_state()
    assert tensors(state)["learnt"].numel() == 39_936
    assert len(save(tensors(state))) <= 350_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["online", "episodic"])
def test_cuda_gives_cpu_labels_and_states_on_cpu(
    mode: str, classifiers: Callable[..., Classifier], batches: Batches
) -> None:
    settings = GrpoSettings.for_mode(mode, **({"update_every": 8} if mode == "online" else {}))
    results: list[Tensor] = []
    for device in ("cpu", "cuda"):
        method: Method = create_method("grpo", classifiers(device=device), settings)
        prediction, state, report = method.step(batches(20), method.initial_state())
        assert report.finite
        assert all(value.device.type == "cpu" for value in tensors(state).values())
        results.append(prediction.probabilities)
    torch.testing.assert_close(results[0], results[1], atol=1e-2, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_autocast_on_cuda_stays_close(classifiers: Callable[..., Classifier], batches: Batches) -> None:
    plain, mixed = classifiers(device="cuda"), classifiers(device="cuda", use_autocast=True)
    pixels = plain.normalise(batches(4).canvases)
    torch.testing.assert_close(mixed.features(pixels), plain.features(pixels), atol=0.05, rtol=0.1)
