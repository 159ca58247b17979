"""The experiments: flat scripts, one for each, with their settings and presets."""
