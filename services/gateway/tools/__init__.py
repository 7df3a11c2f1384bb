"""Commands for operators of gateways."""
