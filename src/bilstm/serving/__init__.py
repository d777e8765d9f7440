"""HTTP server over trained models, and its page. Needs the extra `serve`, not torch."""
