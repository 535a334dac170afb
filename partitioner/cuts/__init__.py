"""Where the axes of a grid are cut, so that ranks of different speeds finish together: pure functions of numbers."""
