"""Symbols into bytes and back: tables, the coder, the file, tiles, decoding in whole numbers."""
