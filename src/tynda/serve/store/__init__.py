"""The store of the server: recordings, the jobs that transcribe them, and what is known of them."""
