"""GLM-4-0414: four norms in each layer, half of each head rotated."""
