"""The catalogue of known bundles: one TOML manifest each, shipped in the wheel. Weights are never here."""
