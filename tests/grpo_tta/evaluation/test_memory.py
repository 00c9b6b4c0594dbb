"""Bytes that a method needs, of a method whose every tensor is known."""

import numpy as np
import torch

from grpo_tta.evaluation.memory import peak_bytes
from grpo_tta.evaluation.streams import Frames
from grpo_tta.state import tensor_bytes
from grpo_tta.types import Batch, Method, Prediction, Report, State

KB = 1000


class Hungry(Method):
    """Keeps 8 KB; a step holds 40 KB at its largest, however often it is taken."""

    name = "hungry"

    def initial_state(self) -> State:
        return {"frames": 0, "kept": torch.zeros(2 * KB)}

    def step(self, batch: Batch, state: State) -> tuple[Prediction, State, Report]:
        first = torch.zeros(5 * KB)
        second = first.view(5, KB) + 1.0
        del first, second
        third = torch.ones(8 * KB)
        kept = third[: 2 * KB].clone()
        labels = torch.zeros(0)
        return Prediction(labels), {"frames": int(state["frames"]) + len(batch), "kept": kept}, Report(labels)

    def predict(self, batch: Batch, state: State) -> Prediction:
        return Prediction(torch.zeros(0))


def test_a_state_is_as_large_as_its_tensors() -> None:
    state = {"frames": 3, "a": torch.zeros(10), "b": torch.zeros(2, 3, dtype=torch.float16), "c": torch.zeros(())}
    assert tensor_bytes(state) == 56
    assert tensor_bytes(state, {"b": 4}) == 68


def test_the_peak_is_of_what_is_alive_at_one_time() -> None:
    numbers = np.zeros(2, dtype=np.int64)
    frames = [Frames(np.zeros((2, 3, 4, 4), dtype=np.uint8), numbers, numbers)] * 3
    # 20 + 20 KB, then 32 + 8 KB; from the second step on beside the 8 KB that the first one made
    assert peak_bytes(Hungry(), frames, torch.device("cpu")) == 48 * KB
    assert peak_bytes(Hungry(), frames[:1], torch.device("cpu")) == 40 * KB
