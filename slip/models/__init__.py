"""Image and text towers, heads, and the models built of them, by their published names."""
