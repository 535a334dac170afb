"""What a plan says beside another one, a profile or other grids."""
