"""Kernel launchers, and the lazy loader of the native module `_C`. Nothing here is imported with the package."""
