"""Optimizers, one file each; learning-rate schedules; loss scaling."""
