"""Weights: the formats that they are stored in, and the arithmetic on them.

The rest of tynda only uses `Weight` (``weight.py``). `Grid` (``grid.py``) describes a format,
``pack.py`` converts codes to bytes, ``integers.py`` (8 bits), ``scales.py`` and ``rounding.py``
(fewer bits) convert numbers to codes, ``stored.py`` reads and writes the tensors of a file, and
``kernels.py`` gives weights to the native kernels.
"""
