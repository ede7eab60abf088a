"""Pictures of a run, each drawn by a module as a PNG."""
