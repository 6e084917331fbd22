"""SynVT, the embedded data set: walking people that the project draws itself, in the layouts of the public sets.

people  who they are: shape, colours, heat, scenes, cameras
draw    one person and one scene as pixels
make    a whole set as files
"""

from .make import PRESETS, Structure, factors, image_path, make, preset, read_structure, structure
from .people import CAMERAS, Camera, Key, Spec, colours, heats, render_batch, scene, shape, sheet
