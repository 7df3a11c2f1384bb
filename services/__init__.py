"""Trivet's four services. They speak over the network only and never import each other."""
