"""Complete runs, one or more files each: what the verbs of the command line do, as functions.

``claims`` has papers' claims as experiments.
"""
