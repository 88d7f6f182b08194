"""How the big matrix is cut and used: no files, no cluster.

:mod:`~ntk_dist.gram.grid` is integers only: which rows and columns a block covers.
:mod:`~ntk_dist.gram.plan` says what is missing, projects bytes and flops, and refuses work that
cannot fit before any of it starts; :mod:`~ntk_dist.gram.simulation` says on paper what the whole
job would take on a cluster. :mod:`~ntk_dist.gram.block` computes one block on this device, in
sub-batches that respect a memory budget, and :mod:`~ntk_dist.gram.cut` says how large they are;
:mod:`~ntk_dist.gram.pairs` gives the kernels between samples as users hand them over.
:mod:`~ntk_dist.gram.shard` multiplies by the blocks that one worker owns:
:mod:`~ntk_dist.gram.product` does so for one block, compiled, and
:mod:`~ntk_dist.gram.read_ahead` fetches those that memory has no room for.
"""

from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.gram.plan import GramPlan, default_block_rows, plan_gram

__all__ = ["BlockGrid", "BlockIndex", "GramPlan", "default_block_rows", "plan_gram"]
