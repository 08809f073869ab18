"""Bundles and the meaning of their scores: manifest, policy, verdict, and the store on disk. No framework."""
