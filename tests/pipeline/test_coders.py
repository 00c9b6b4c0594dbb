import torch
from apache_beam import coders
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.adapters.events import ImageRef
from grpo_tta.pipeline.label.coders import StreamBatch, StreamBatchCoder, StreamStateCoder
from grpo_tta.pipeline.label.records import WindowedRef
from grpo_tta.state import StreamState

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
TIME = st.integers(-(2**53), 2**53)
REFS = st.builds(
    ImageRef,
    coordinate=TEXT,
    id=TEXT,
    stream=TEXT,
    event_time=TIME,
    uri=st.none() | TEXT,
    data=st.none() | st.binary(max_size=30),
    content_type=st.none() | TEXT,
    attributes=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    size=st.integers(-1, 10),
    position=st.integers(-1, 10),
    time_capped=st.booleans(),
)
EVENTS = st.lists(st.builds(WindowedRef, REFS, st.tuples(TIME, TIME)), max_size=5).map(tuple)
BATCHES = st.builds(StreamBatch, st.integers(0, 10**6), st.booleans(), EVENTS)


@settings(max_examples=60)
@given(BATCHES)
def test_a_stretch_comes_back_and_has_one_encoding(batch):
    coder = StreamBatchCoder()
    encoded = coder.encode(batch)
    assert coder.decode(encoded) == batch
    assert StreamBatchCoder().encode(coder.decode(encoded)) == encoded


def state():
    return StreamState(
        method={"frames": 7, "theta": torch.tensor([1.5, -0.0, float("nan")]), "rate": 0.1},
        guard={"total": 7, "rows": torch.zeros(0, 3), "statistic": float("inf")},
        counters={"frames": 7, "late": 1},
        position={"event_time": -5, "coordinate": "/feed/\u00fc@1"},
        fingerprint="model",
        method_name="grpo-online",
        settings_fingerprint="settings",
    )


def test_a_state_comes_back_bit_for_bit_and_has_one_encoding():
    coder = StreamStateCoder()
    encoded = coder.encode(state())
    decoded = coder.decode(encoded)
    assert coder.encode(decoded) == encoded
    assert decoded.counters == state().counters
    assert decoded.position == state().position
    theta = decoded.method["theta"]
    assert torch.equal(theta.view(torch.int32), state().method["theta"].view(torch.int32))
    assert (decoded.method["frames"], decoded.method["rate"]) == (7, 0.1)
    assert decoded.guard["rows"].shape == (0, 3)
    assert decoded.guard["statistic"] == float("inf")


def test_beam_uses_them_and_takes_them_for_deterministic():
    for kind, coder in ((StreamBatch, StreamBatchCoder), (StreamState, StreamStateCoder)):
        found = coders.registry.get_coder(kind)
        assert isinstance(found, coder)
        assert found.is_deterministic()
