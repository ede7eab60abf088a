"""The one version number, for setup.py, CMakeLists.txt and the native loader."""

__version__ = "0.2.0"
