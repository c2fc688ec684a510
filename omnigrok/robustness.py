"""`omnigrok.probes.robustness` by the name that it had first, for programs that import it so."""

from omnigrok.probes.robustness import *  # noqa: F403
