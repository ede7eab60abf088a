"""Training recipes: what `learned-resizer train`, `transfer`, `ablate` and `evaluate` run, as parts to be reused.

``config`` says what to run, ``presets`` what suits the built-in data, ``stages`` of which trainings it consists.
``run`` works through them in a folder (``folder``), each by ``fit``: the models of ``build`` and ``networks``, trained
together by ``joint`` for a task of ``tasks``, their figures kept by ``record`` and their state by ``checkpoint``.
``present`` writes what came out, from the figures of ``report``; ``evaluate`` tests it again; ``weights`` keeps a
trained resizer in a file. Needs the ``[train]`` extra, except ``weights``.
"""
