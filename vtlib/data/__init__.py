"""Data sets, from files on a disk to batches on a device. datasets: SYSU-MM01, RegDB and plain folders as one table.
check: a data folder against the published counts, and every image opened. images: the images of a table decoded once
and mapped from one file. batches: P identities with K images of each modality, augmented and normalised. croissant: a
data folder described for other tools. Import the rooms themselves; this package re-exports nothing."""
