# The extension that mesh_build.py makes of mesh/mesh.h; cffi types nothing.
from typing import Any

ffi: Any
lib: Any
