"""Weights: the formats that they are stored in, and the arithmetic on them.

`Weight` (``weight.py``) is all that the rest of tynda has to know. What its format is, is said by
`Grid` (``grid.py``), how codes become bytes by ``pack.py``, how numbers become codes by
``integers.py`` (8 bits) and ``steps.py`` and ``rounding.py`` (fewer), how a weight lies in a
file by ``stored.py``, and how the native kernels hold it by ``kernels.py``.
"""
