"""`Parallel`: a program as a module that is trained."""
