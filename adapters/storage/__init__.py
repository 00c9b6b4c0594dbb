"""Files and buckets: sources, their listing, reading an event's bytes, and the small objects a job writes."""
