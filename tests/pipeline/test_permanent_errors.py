"""What is not tried again, also where a runner has wrapped it."""

import traceback
from collections.abc import Callable

import pytest

from grpo_tta.adapters.kafka.errors import (
    CodecMissing,
    Fenced,
    KafkaFailure,
    KafkaForbidden,
    KafkaTrouble,
    ReadStalled,
    RecordTooLarge,
    SendFailed,
    TopicMissing,
)
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.slice import is_permanent
from grpo_tta.state import ForeignStateError


def as_it_is(error: Exception) -> Exception:
    return error


def of_a_slice(error: Exception) -> Exception:
    wrapped = JobError("slice 3 of images-0 failed")
    wrapped.__cause__ = error
    return wrapped


def of_another_process(error: Exception) -> Exception:
    text = "".join(traceback.format_exception(error))
    return of_a_slice(RuntimeError(f"bundle failed: Traceback ...\n{text.rstrip()} [while running 'Read']"))


@pytest.mark.parametrize("wrap", [as_it_is, of_a_slice, of_another_process])
@pytest.mark.parametrize(
    ("kind", "permanent"),
    [
        (KafkaFailure, True),
        (KafkaForbidden, True),
        (TopicMissing, True),
        (CodecMissing, True),
        (RecordTooLarge, True),
        (ConfigurationError, True),
        (ForeignStateError, True),
        (KafkaTrouble, False),
        (ReadStalled, False),
        (SendFailed, False),
        (Fenced, False),
        (OSError, False),
        (RuntimeError, False),
    ],
)
def test_what_another_try_does_not_mend(
    wrap: Callable[[Exception], Exception], kind: type[Exception], permanent: bool
) -> None:
    assert is_permanent(wrap(kind("said: why"))) is permanent
