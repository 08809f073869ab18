"""What a bundle is and what its scores mean: manifest, policy, verdict, and the store on disk. No framework."""
