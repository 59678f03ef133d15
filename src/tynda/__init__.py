"""tynda: speech recognition made small, fast and private."""
