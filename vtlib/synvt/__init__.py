"""SynVT, the embedded data set: walking people that the project draws itself, in the layouts of the public sets.

people  factors: shape, colours and heat of people, scenes, cameras, and the Spec of a set
draw    one image from its factors
make    a whole set as files
"""

from .make import PRESETS, Structure, factors, image_path, make, preset, read_structure, structure
from .people import CAMERAS, Camera, Key, Spec, colours, heats, render_batch, scene, shape, sheet
