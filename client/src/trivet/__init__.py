"""Client of Trivet, the distributed file store."""
