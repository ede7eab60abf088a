"""The version, in the one place that setup.py, CMakeLists.txt and the native loader all read."""

__version__ = "0.1.0"
