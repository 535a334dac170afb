"""Where the user's code stands, and what of it is refused there; torch without its own words."""
