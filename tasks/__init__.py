"""The domains of the suite, one file each: data, model, loss, metrics, default spec, citation."""
