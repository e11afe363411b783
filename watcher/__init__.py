"""The daemon: what lands in the inbox becomes a row, and the file is put away."""
