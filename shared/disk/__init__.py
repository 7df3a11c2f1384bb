"""Durable files (`durable_files`), and data folders that know which cluster and node they belong to (`data_folder`)."""
