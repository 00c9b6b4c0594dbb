"""Kafka: where a live stream comes from and where its records go, and which partitions this process owns."""
