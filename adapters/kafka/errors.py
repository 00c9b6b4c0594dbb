"""What can go wrong with Kafka, as this project's own errors: each says what to do, none carries a secret."""


class KafkaFailure(Exception):
    """Kafka did not do what was asked. ``retriable``: the same call may succeed later."""

    retriable = False


class KafkaTrouble(KafkaFailure):
    """An error of the cluster's that passes. A class, for a runner that hands an error on keeps no more of it."""

    retriable = True


class KafkaUnreachable(KafkaFailure):
    """No answer within the time-out, or a listener that speaks another protocol than ours."""

    retriable = True


class KafkaForbidden(KafkaFailure):
    """The broker knows us and refuses: an ACL is missing, or the credentials are wrong."""


class TopicMissing(KafkaFailure):
    """A topic or partition does not exist."""


class OffsetOutOfRange(KafkaFailure):
    """The wanted position does not exist (any more) and the policy is to fail."""


class ReadStalled(KafkaFailure):
    """Records that must be there did not arrive within the bound."""

    retriable = True


class RecordDamaged(KafkaFailure):
    """The client library cannot decode what the log holds, and cannot pass over it."""


class CodecMissing(KafkaFailure):
    """A topic is compressed by a codec whose package is not installed."""


class SendFailed(KafkaFailure):
    """At least one record was not acknowledged; the producer is rebuilt before the next one."""

    retriable = True


class RecordTooLarge(SendFailed):
    """The broker takes no record of this size."""

    retriable = False


class Fenced(KafkaFailure):
    """Another process owns this partition now: whatever this one still holds of it must be dropped."""


class CommitUnknown(KafkaFailure):
    """A transaction's end was not acknowledged: the group's committed offset says how it ended."""

    retriable = True
