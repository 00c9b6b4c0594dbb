"""What a job is given: sections, values, classes, and what the Kafka adapters make of them."""
