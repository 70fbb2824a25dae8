"""Training by Sect. 3.1: recipe, augmentation, schedule, updates, state."""
