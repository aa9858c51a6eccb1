"""nightcrew runs a crew of coding agents through the night."""

__version__ = "0.1.0"
