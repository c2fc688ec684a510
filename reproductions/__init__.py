"""One script a paper figure: its sweep, its table, its drawing, its claims. ``python -m reproductions.fig_lu``."""
