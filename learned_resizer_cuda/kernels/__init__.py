"""Kernel launchers and the lazy loader of the native module `_C`. Not imported with the package."""
