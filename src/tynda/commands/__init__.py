"""Commands: the sentences of a grammar are recognised, and everything else is refused."""
