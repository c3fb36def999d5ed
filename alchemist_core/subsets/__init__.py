"""Subset versions as files and tensors: manifests, differences, materialized datasets, the torch dataset."""
