"""The nouns that all stages share: graph, grid, layout, machine, plan, profile."""
