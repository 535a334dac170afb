"""What a compiled folder hands over: the program and its plan."""
