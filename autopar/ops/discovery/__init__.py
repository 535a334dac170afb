"""Rules of operators without a record, found by running them on small parts."""
