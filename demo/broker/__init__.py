"""A real Kafka broker on this machine, from Maven's jars: for the tests, the live demo and the benchmarks.

    with LocalBroker(folder) as broker:
        create_topic(broker.bootstrap, "events", partitions=4)

It needs Java and, once, Maven and its repository; where they are missing ``BrokerUnavailable`` says so.
"""

from .admin import admin_client, create_topic
from .libraries import BrokerUnavailable
from .local import BrokerFailed, LocalBroker, LocalCluster

__all__ = ["BrokerFailed", "BrokerUnavailable", "LocalBroker", "LocalCluster", "admin_client", "create_topic"]
