"""The records, a file per family of operators."""
