"""The version of this package, apart so that its own modules need not import the facade."""

__version__ = "0.1.0"
