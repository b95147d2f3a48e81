"""Training of the small `nano` models: data, scenes, phrases and one loop per model."""
