"""The training, plain PyTorch. Only trainable.py knows Ray; catalog.py does not know torch."""
