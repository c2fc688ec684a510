"""Which networks are trained: a module a domain, with a table of sizes a preset."""
