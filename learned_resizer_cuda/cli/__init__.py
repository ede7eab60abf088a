"""The command line `learned-resizer`: `main` dispatches, one module a command does the work."""
