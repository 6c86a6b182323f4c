"""Room of file formats: bytes on disk to tensors and back; it knows nothing of models."""

from course_utils.formats.gguf import GGUFFile, read_gguf
from course_utils.formats.gguf_write import write_gguf

__all__ = ["GGUFFile", "read_gguf", "write_gguf"]
