"""The kinds of jobs: listed, followed, live; and what is done with a source or results beside labelling."""
