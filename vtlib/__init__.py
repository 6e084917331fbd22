"""vtlib: visible-thermal person re-identification.

The heart, which imports nothing of the rest:
losses/     pure functions (features, labels, modality) -> scalar, under one contract
model       the two-stream network: position attention, pooling, BN neck, part heads
backbones   a ResNet by name, and the weights that it starts from
ranking     rank-k, mAP and mINP of one matrix of similarities
evaluate    the protocols of SYSU-MM01 and RegDB
common      folders of data and results, paths, the sentence for an unknown name

Experiments, training and results:
config      Experiment: every number that changes a result; profiles; the run id
methods     the named systems of the papers, as data
systems/    what single systems need beyond the heart: losses, heads, changes of the trunk, views, searches
objective   the losses of an experiment: what each term reads, and its value
train       fit(): the only place with backward()
capture     a training step as one CUDA graph
parallel    one experiment in several processes
device      the device and precision of a run, and the number of this process
inference   features of images by a trained network
protocols   the searches that measure a test set, as values
bootstrap   confidence intervals of means
runs        run(experiment), collect(runs): the store of results
mechanisms  whether attention, mining, weighting or a loss acts in a training
tuning      equal trials of every method on validation people
pretrain    starts: weights from SynVT people who are in no other set
pml         losses of pytorch-metric-learning in an experiment, ours under its call
files       files written whole or not at all, JSON, locks
memory      peak memory of a process
launch      the command line, the one door to all wings

Wings:
data/       data sets as one table, decoded images, batches, checks against published counts
synvt/      SynVT, the embedded data set, drawn by the project
suite/      tables and figures of both papers: claims, verdicts, comparisons, plots, report
batch/      all runs of a profile: forecast, Snakemake graph, jobs

tuned/ and weights/ hold what tuning and pretrain have made.
"""

__version__ = "0.1.0"
