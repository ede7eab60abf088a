"""The command line `learned-resizer`; `main` imports the module of the subcommand."""
