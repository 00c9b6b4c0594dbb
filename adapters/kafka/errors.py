"""What can go wrong with Kafka, as this project's own errors: each says what to do, none carries a secret."""


class KafkaFailure(Exception):
    """Kafka did not do what was asked. ``retriable``: the same call may succeed later."""

    retriable = False


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


class SendFailed(KafkaFailure):
    """At least one record was not acknowledged; the producer is rebuilt before the next one."""

    retriable = True


class Fenced(KafkaFailure):
    """Another process owns this partition now: whatever this one still holds of it must be dropped."""


class CommitUnknown(KafkaFailure):
    """A transaction's end was not acknowledged: the group's committed offset says how it ended."""

    retriable = True
