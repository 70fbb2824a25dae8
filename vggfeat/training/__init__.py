"""The recipe of Sect. 3.1: augmentation, schedule, step, state."""
