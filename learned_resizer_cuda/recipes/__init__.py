"""Training recipes: what `learned-resizer train` runs, as plain parts that other protocols can reuse.

``config`` says what to run, ``arms`` and ``networks`` build the models, ``joint`` is the Lightning module that
trains a resizer and a network together, ``compare`` runs arms and seeds, ``report`` and ``pictures`` write what
came out, ``weights`` keeps a trained resizer in a file. Needs the ``[train]`` extra, except ``weights``.
"""
