"""How well a method does: corruptions, streams, accuracy and its uncertainty."""
