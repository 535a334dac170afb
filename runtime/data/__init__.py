"""A user's own data, of which every rank reads its part."""
