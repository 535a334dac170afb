"""From a graph with records to a plan: price, solve, evaluate, try again under the limit."""
