"""Weights of other code bases, renamed and turned into those of the models here. Nothing is imported by itself."""
