"""Grid axes; where the rows of a dim lie, who sends which to whom; random numbers by place."""
