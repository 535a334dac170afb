"""The life of a training job: how it ends, what it refuses to learn from, and what it goes on with."""
