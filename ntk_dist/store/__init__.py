"""Where blocks, rows and models live.

A :class:`~ntk_dist.store.base.AbstractBlockStore` keeps the blocks of one Gram matrix under one
law: a block is either absent or right, and so are the statistics of the rows, kept beside them.
Stores come from a workspace (:func:`~ntk_dist.store.workspace.open_workspace`), which also keeps
the rows of every data set once and every fitted model under a version; without a folder everything
stays in memory, in the plain reference implementations. A stored Gram carries a
:class:`~ntk_dist.store.manifest.Manifest` of what it belongs to and is refused to anything else.
Files that users bring are read by :func:`~ntk_dist.store.inputs.read_array`.

This is the only folder that knows of Zarr and of file formats. Import its modules by name:
``base`` (the contracts) and ``manifest``, ``memory``, ``zarr`` and ``statistics`` (stores),
``dataset`` (rows) and ``repeats`` (those that are equal), ``arrays`` (named arrays of a model),
``checkpoint`` (work in progress), ``checked`` (Zarr arrays with a checksum in every chunk),
``workspace``, ``location`` (opening a ``place``: a ``folder``, or ``objects`` in a ``bucket``,
which are ``zarr_objects`` to Zarr); ``inputs`` with ``foreign`` (Zarr of others), ``tables`` (CSV,
Parquet) and ``idx``.
"""

__all__: list[str] = []
