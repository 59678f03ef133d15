"""From a model's definition to what runs: trace, lower, lay out, count, execute."""
