"""Published scores of an image and its text as verifiers: they read images and give scores without P(yes)."""
