"""Several trials of one arm and stage trained as one, by grouped convolutions; plain PyTorch."""
