import pickle

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.adapters.coders import BadRecordCoder, ImageRefCoder
from grpo_tta.adapters.events import BadRecord, ImageRef, seed_of

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
REFS = st.builds(
    ImageRef,
    coordinate=TEXT,
    id=TEXT,
    stream=TEXT,
    event_time=st.integers(-(2**62), 2**62),
    uri=st.none() | TEXT,
    data=st.none() | st.binary(max_size=50),
    content_type=st.none() | TEXT,
    attributes=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    size=st.integers(-1, 2**40),
    position=st.integers(-1, 2**40),
    time_capped=st.booleans(),
)
BAD = st.builds(BadRecord, TEXT, TEXT, TEXT, TEXT, st.none() | TEXT, st.integers(-1, 2**40))


@given(REFS)
def test_a_reference_survives_its_coder(ref):
    coder = ImageRefCoder()
    assert coder.decode(coder.encode(ref)) == ref
    assert type(coder.decode(coder.encode(ref))) is ImageRef


@given(BAD)
def test_a_bad_record_survives_its_coder(bad):
    coder = BadRecordCoder()
    assert coder.decode(coder.encode(bad)) == bad


@given(st.lists(REFS, max_size=4))
def test_coders_nest_in_beams_own(refs):
    coder = coders.ListCoder(coders.TupleCoder((ImageRefCoder(), coders.VarIntCoder())))
    pairs = [(ref, i) for i, ref in enumerate(refs)]
    assert coder.decode(coder.encode(pairs)) == pairs


@pytest.mark.parametrize(("kind", "coder"), [(ImageRef, ImageRefCoder), (BadRecord, BadRecordCoder)])
def test_coders_are_registered_and_deterministic(kind, coder):
    found = coders.registry.get_coder(kind)
    assert isinstance(found, coder)
    assert found.is_deterministic()
    assert found == pickle.loads(pickle.dumps(found))


def test_a_seed_is_63_bits_of_the_id():
    assert seed_of("cam/a.jpg") == seed_of("cam/a.jpg") != seed_of("cam/b.jpg")
    assert all(0 <= seed_of(str(i)) < 2**63 for i in range(1000))
    assert len({seed_of(str(i)) for i in range(1000)}) == 1000
    assert seed_of("ünï\udc80") >= 0


def test_references_travel_through_a_shuffle():
    refs = [ImageRef(f"c{i}", "i", f"s{i % 2}", i, data=b"x", attributes=(("a", "b"),)) for i in range(6)]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        keyed = (
            pipeline
            | beam.Create(refs)
            | beam.Map(lambda ref: (ref.stream, ref)).with_output_types(tuple[str, ImageRef])
        )
        assert_that(keyed | beam.GroupByKey() | beam.FlatMap(lambda group: sorted(group[1])), equal_to(refs))
