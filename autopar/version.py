"""The release that this is. It stands alone, so that every stage can say who wrote a file without loading the Python API."""

__version__ = "0.1.0"
