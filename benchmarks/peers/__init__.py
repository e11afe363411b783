"""What we measure ourselves beside: servers as the documentation of each framework writes them.

Each runs in an environment of its own; the model and what is done to an image are in `model.py`.
"""
