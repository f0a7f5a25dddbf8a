"""GenEval's six tasks, in the order of its tables."""

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
