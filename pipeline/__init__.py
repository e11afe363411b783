"""From a zip of images to a model bundle: DVC runs the stages, one module and one function each."""
