"""The artifact: a hardened model in one safetensors file, safe to open from a stranger."""

from iqa_armor.artifact.storage import is_artifact, load_artifact, read_metadata, save_artifact

__all__ = ["is_artifact", "load_artifact", "read_metadata", "save_artifact"]
