"""Commands for operators: check the audit trail; make, list and replace identities and access keys."""
