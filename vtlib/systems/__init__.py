"""What single systems need beyond the heart, which does not know them: one file each."""

from collections import ChainMap

from .. import losses
from .crossed import adaptive_cmdc

OWN = {"adaptive_cmdc": adaptive_cmdc}
LOSSES = ChainMap(OWN, losses.LOSSES)  # all losses of ours that an experiment may name
