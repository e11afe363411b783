"""The table and the files that are kept. The only SQL of the house is here."""
