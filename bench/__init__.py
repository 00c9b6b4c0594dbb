"""``grpo-tta bench``: methods against the frozen encoder and each other over streams made of any labelled pictures."""
