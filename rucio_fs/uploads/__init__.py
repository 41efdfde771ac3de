"""Bringing what is saved in scratch into the lake: names, options, the journal and its stages."""
