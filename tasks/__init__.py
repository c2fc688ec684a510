"""The domains of the suite, one file each: data, model, loss, metrics, default spec, citation."""

import omnigrok  # noqa: F401  # before torch, whose threads it tells how to wait
