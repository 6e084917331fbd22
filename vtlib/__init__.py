"""vtlib: visible-thermal person re-identification, as thin as it gets.

config      Experiment: every number that changes a result; profiles; the run id
synthetic   SynVT, the embedded data set, in the public sets' layouts
figure      one person and one scene as pixels: capsules, projection, rasteriser, paint, sensor
datasets    SYSU-MM01, RegDB and plain folders as one table; checks against published counts
images      decoded uint8 store, batched augmentation, P x K sampler
model       two-stream ResNet, position attention, pooling, neck, part heads
losses      pure functions with one contract
pml         pytorch-metric-learning: its losses in an experiment, ours in its form
methods     the named systems of the papers, as data
pretrain    the starts: weights from SynVT people of their own
mechanisms  what acts in a training: active terms, kept pairs, spreads, shares of the gradient
tuning      equal trials of every method on validation people, and what they chose
train       fit(): the only place with backward()
parallel    several processes, one experiment
device      the device of a run, its precision, and this process among several
evaluate    rank-k, mAP, mINP; the SYSU-MM01 and RegDB protocols
protocols   the searches that a test set is measured by, as values
cues        searches of SynVT that read one cue each: factors, outline, colour
runs        run(experiment), collect(runs): the store of results
compare     is one system better: paired differences, their error over people and seeds, verdicts
calibrate   how often a verdict is wrong, on worlds made of finished runs
printed     the tables of both papers as they print them, errors said
papers      every table and figure: the experiments that it needs, what is claimed of it
report      measured beside printed, verdicts, where every number comes from
plan        what a profile will take: data checked, runs, hours, disk
exchange    results as one file to send, and such files beside the printed tables
describe    results as an RO-Crate, a data set as Croissant: JSON-LD that other tools read
plots       tidy data in, figure out
explain     what an experiment trains, in words and formulas
choose      the lists and counts that a notebook is asked for, checked before any work
launch      the command line
graph       the Snakefile's plan, one job of it, and what became of them all
files       where data and results lie, files that are whole or as before, locks
names       one sentence for a name that is not known
machine     cores and memory: how many runs fit beside each other
"""

__version__ = "0.1.0"
