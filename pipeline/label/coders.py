"""Beam coders for what travels between the steps: plain typed tuples, deterministic, never pickled."""

from dataclasses import dataclass

from apache_beam import coders

from grpo_tta.adapters.coders import ImageRefCoder
from grpo_tta.pipeline.label.records import WindowedRef
from grpo_tta.state import StreamState, decode_state, encode_state


@dataclass(frozen=True)
class StreamBatch:
    """A stretch of one stream's events, in order; ``index`` counts a slice's stretches of the stream from 0."""

    index: int
    last: bool
    """The slice holds no more of this stream."""
    events: tuple[WindowedRef, ...]


class StreamBatchCoder(coders.Coder):
    """Through tuples of Beam's own coders."""

    _tuples = coders.TupleCoder(
        (
            coders.VarIntCoder(),
            coders.BooleanCoder(),
            coders.ListCoder(coders.TupleCoder((ImageRefCoder(), coders.VarIntCoder(), coders.VarIntCoder()))),
        )
    )

    def encode(self, value: StreamBatch) -> bytes:
        """The batch as bytes."""
        events = [(event.ref, *event.window) for event in value.events]
        return bytes(self._tuples.encode((value.index, value.last, events)))

    def decode(self, encoded: bytes) -> StreamBatch:
        """The inverse of `encode`."""
        index, last, events = self._tuples.decode(encoded)
        return StreamBatch(index, last, tuple(WindowedRef(ref, (start, end)) for ref, start, end in events))

    def is_deterministic(self) -> bool:
        """Equal batches encode to equal bytes."""
        return True


class StreamStateCoder(coders.Coder):
    """A stream's state by the project's own versioned codec."""

    def encode(self, value: StreamState) -> bytes:
        """See `grpo_tta.state.encode_state`."""
        return encode_state(value)

    def decode(self, encoded: bytes) -> StreamState:
        """See `grpo_tta.state.decode_state`."""
        return decode_state(encoded)

    def is_deterministic(self) -> bool:
        """Equal states encode to equal bytes."""
        return True


coders.registry.register_coder(StreamBatch, StreamBatchCoder)
coders.registry.register_coder(StreamState, StreamStateCoder)
