"""The job: what is read, labelled, committed, and written out. `pipeline.graph` is the file to read first."""
