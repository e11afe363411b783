"""From a zip of images to a model bundle: DVC runs the stages, one module and one function each."""

import os

# Read when torch is imported: threads that wait give their core away. Where anything else runs,
# spinning makes training several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
