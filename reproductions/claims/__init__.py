"""What the figures claim and how it is measured: a module a figure, from its tables to a number a seed."""
