"""The artifact: a hardened model in one safetensors file, safe to open from a stranger."""

from iqa_armor.artifact.storage import check_storable, is_artifact, load_artifact, read_metadata, save_artifact

__all__ = ["check_storable", "is_artifact", "load_artifact", "read_metadata", "save_artifact"]
