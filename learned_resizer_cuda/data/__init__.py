"""Image data: the built-in real images, and image files read and written.

Nothing here is imported by ``import learned_resizer_cuda``; what needs the ``[train]`` extra says so when it is
used, not when it is imported.
"""
