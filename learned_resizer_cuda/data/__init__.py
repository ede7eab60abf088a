"""Image data for training: built-in images and folders of image files.

``import learned_resizer_cuda`` imports nothing from here. Modules that need the ``[train]`` extra say so when they are
used, not when they are imported.
"""
