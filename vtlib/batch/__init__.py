"""From a profile to its results: graph.py lists its jobs (data sets, weights, runs, notebooks) and what each waits for,
calls Snakemake (the rules are in Snakefile), and prints what became of each job; job.py does one job, in a process of
its own, which forkserver.py forks from one that has imported everything. progress.py says what runs and what is left,
forecast.py checks the data and estimates time and disk before the start, and resources.py measures cores and memory of
the machine. Import the rooms themselves; this package re-exports nothing.
"""
