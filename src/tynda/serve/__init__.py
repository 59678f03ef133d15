"""A server: recordings and live speech come in by HTTP, WebSocket and Wyoming, text goes out."""
