"""GenEval's six tasks, in the order of its tables. A leaf: statistics, costs and figures know tasks by name alone."""

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
