"""What comes with the checkout and is not installed: the builder of the packaged demo model, and a local broker."""
