"""Pictures of a run, each drawn by a module and saved as a PNG."""
