"""One script a paper figure: its groups of runs, its tables, its picture. ``python -m reproductions.fig_lu``.

Which networks are trained is in ``experiments/``, what is measured of them and expected in ``claims/``.
"""
