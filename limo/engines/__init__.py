"""Engines turn prompts into completions: a local model, or any OpenAI-compatible server."""
