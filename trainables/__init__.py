"""The training, plain PyTorch. Only trainable.py knows Ray; the catalog does not know torch."""
