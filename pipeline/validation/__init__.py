"""What evaluations do to training: best checkpoint, early stopping, learning rate on a plateau."""
