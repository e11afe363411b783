"""Python's garbage collector, told what will not become garbage."""

import gc


def keep_what_is_loaded() -> None:
    """Call it once a process is ready: what is there now is never searched again for garbage.

    Modules, schemas and the model are some hundred thousand objects. Under load the collector would
    go through all of them every few seconds, and everything would stand still for 0.1 s.
    """
    gc.freeze()  # without a search before: at the start there is next to no garbage
