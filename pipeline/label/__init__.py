"""From events to records: the step of a stream, what it reads, and what it writes down."""
