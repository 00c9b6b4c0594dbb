"""What a job is told: sections, values, classes, and what the Kafka adapters make of them."""
