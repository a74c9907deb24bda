"""Dot products of sparse rows: each op in a folder, with its reference, its kernels and its test cases beside it."""
