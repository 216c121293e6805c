"""Public implementations of the variants, added to the registry: `--import bench.peers`.

Each file is for one package or one of its modules; every file in this folder is imported. This
import does not need the packages: a missing package makes rows `unsupported`, with the command that
installs it as the reason.

Conventions for all peers. Query, key and value are the inputs of the attention itself, as (batch,
heads, seq_len, head_dim) tensors or views of them; input and output projections are left out. A
copy into another layout is part of the timed call only if a user of the package has this cost too.
Objects, masks and random draws that a model makes once for many calls are cached between calls. If
a peer has a fixed scale and the call another one, the query is multiplied by the ratio.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
