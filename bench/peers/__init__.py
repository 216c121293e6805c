"""Public implementations of the variants, added to the registry: `--import bench.peers`.

One file, one package; there is no list. Importing this needs none of the packages: a missing one
makes rows `unsupported` that say what to install.

What a peer is given. Query, key and value enter the attention itself, as (batch, heads, seq_len,
head_dim) tensors or views of them; projections are left out, those of an output too. A copy into
another layout is inside the timed call only if someone who uses the package pays it as well.
Objects, masks and draws that a model makes once, and calls many times, are kept from call to call.
A peer with a fixed scale gets a multiplied query where another is asked for.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
