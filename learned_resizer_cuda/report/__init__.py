"""Reports: what a run found, as figures, tables, pictures and one page.

``summary`` computes means, gaps and verdicts from the results of ``train``; ``tables`` and ``figures`` show them;
``write`` leaves all of it in the run's folder, and ``page`` puts it into report.html. ``terminal`` prints tables, and
``cost`` counts parameters and arithmetic. Needs the ``[train]`` extra.
"""
