"""Image data for training: built-in images and folders of image files.

For training loops of your own: ``collate_images`` and ``NativeFolder``, images at their own sizes.

``import learned_resizer_cuda`` imports nothing from here. Modules that need the ``[train]`` extra say so when they are
used, not when they are imported.
"""

from .native import NativeFolder, collate_images

__all__ = ["NativeFolder", "collate_images"]
