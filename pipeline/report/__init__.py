"""The report page: what a job's outputs say of its streams, as one HTML file. It reads outputs and source, no model."""
