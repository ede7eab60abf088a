"""Training: the parts behind `learned-resizer train`, `transfer`, `ablate` and `evaluate`.

``config`` and ``presets`` say what to train, ``protocol`` plans the stages, and ``run`` works through them in a
``run_folder``. ``loop`` trains one stage: ``models`` on ``batches`` for a task of ``tasks``, with ``optimiser``,
``record``, ``recalibrate`` and ``checkpoint``, in the processes of ``distributed``. ``evaluate`` tests a run again.
``report`` reads the results. Needs the ``[train]`` extra.
"""
