"""The version, readable without importing the package (setup.cfg takes it from here)."""

__version__ = "0.1.0"
