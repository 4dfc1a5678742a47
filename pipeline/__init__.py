"""The commands of training. Everything that they share is in the packages below."""
