"""Other libraries' preprocessing on this package's resampling, one module per library."""
