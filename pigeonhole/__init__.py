"""The front door: the command line, and nothing that anybody else would need."""
