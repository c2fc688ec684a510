"""What is measured of a network beside its loss: local complexity, attacks, linear regions.

In each file functions of any torch model come first, the probe that measures all runs of a batch comes last.
"""
