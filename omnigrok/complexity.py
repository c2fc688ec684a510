"""`omnigrok.probes.complexity` by the name that it had first, for programs that import it so."""

from omnigrok.probes.complexity import *  # noqa: F403
