"""Kernel launchers and lazy loader of `_C`; not imported with the package."""
