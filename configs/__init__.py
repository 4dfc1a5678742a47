"""Configuration: the schema base class, the YAML loader and the shipped YAML files."""
