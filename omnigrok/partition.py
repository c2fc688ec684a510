"""`omnigrok.probes.partition` by the name that it had first, for programs that import it so."""

from omnigrok.probes.partition import *  # noqa: F403
